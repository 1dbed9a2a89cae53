package serve

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/ledger"
)

// FuzzParse gives transactions as clients may send them: what is accepted makes an
// entry within the ledger's bounds or is refused there.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{"request_id":"AAAAAAAAAAAAAAAAAAAAAA==","contract":"kv","operations":[{"key":"kv/a","value":"eA=="}]}`,
		`{"request_id":"AAAAAAAAAAAAAAAAAAAAAA==","contract":"kv","operations":[{"key":"kv/a","delete":true,"compare":{"value":"eA=="}}]}`,
		`{"contract":"lease","operations":[{"key":"lease/a"}]}`,
	} {
		var tx apiv1.Transaction
		if err := protojson.Unmarshal([]byte(text), &tx); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(&tx)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var tx apiv1.Transaction
		if proto.Unmarshal(raw, &tx) != nil {
			return
		}
		request, ops, err := parse(&tx)
		var deny *keystead.DenyError
		var format *keystead.FormatError
		if err != nil {
			if !errors.As(err, &deny) && !errors.As(err, &format) {
				t.Errorf("refused with %T", err)
			}
			return
		}
		for i := range ops {
			ops[i].Compare = nil
		}
		made, err := ledger.Execute(ledger.View{}, request, ops)
		if err != nil {
			t.Fatal(err)
		}
		if entry, err := made.Entry(); err == nil {
			if back, err := ledger.ParseTransaction(entry); err != nil || back.Contract != ledger.KV || len(back.Writes) != len(ops) {
				t.Errorf("%+v, %v", back, err)
			}
		}
	})
}
