package ledger_test

import (
	"fmt"
	"testing"

	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

func TestPutAndReceipt(t *testing.T) {
	d := newDomain(t, 3)
	d.ok(d.tick(1000, "node-1", "node-2"))
	for i := range 1000 {
		d.ok(d.run(put(fmt.Sprint("key", i), "value")))
	}
	d.checkpoint("node-1", "node-3")
	v := receipt.NewVerifier(d.id)
	for leaf := range uint64(1001) {
		p, err := v.Verify(d.receipt(leaf))
		must(t, err)
		if p.Index != leaf || p.Head.Size != 1001 {
			t.Fatalf("%+v", p)
		}
	}
	x, err := ledger.NewView(d.store).Get("kv/key7")
	must(t, err)
	if string(x.Data) != "value" || x.Version != 9 {
		t.Errorf("%+v", x)
	}
}
