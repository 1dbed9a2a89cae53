package refusal

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// TestRoundTrip demands that a refusal is on the far side what it was on the near.
func TestRoundTrip(t *testing.T) {
	deny := keystead.Deny(
		keystead.Finding{Reason: keystead.ReasonWriteOutside, Want: "w", Got: "g", Where: "h"},
		keystead.Finding{Reason: keystead.ReasonStoreCorrupt, Got: "internal reasons too"},
	)
	sent := Encode(fmt.Errorf("wrapped: %w", deny))
	got := Decode(sent)
	var back *keystead.DenyError
	if !errors.As(got, &back) || !reflect.DeepEqual(back, deny) {
		t.Errorf("%v became %v", deny, got)
	}
	format := Decode(Encode(&keystead.FormatError{Format: "entry", Offset: 3, Field: "f", Problem: "p"}))
	if !errors.Is(format, keystead.ReasonMalformed) || !strings.Contains(format.Error(), "offset 3") {
		t.Errorf("a format error became %v", format)
	}
	if err := Decode(Encode(context.DeadlineExceeded)); !errors.Is(err, keystead.ReasonTimeout) {
		t.Errorf("a deadline became %v", err)
	}
	if err := Encode(errors.New("secret path /x")); connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
		t.Errorf("an internal error tells %v", err)
	}
}

// TestStages gives each stage the code that plain HTTP turns into a status.
func TestStages(t *testing.T) {
	for reason, want := range map[keystead.Reason]connect.Code{
		keystead.ReasonTooLarge:         connect.CodeInvalidArgument,
		keystead.ReasonMalformed:        connect.CodeInvalidArgument,
		keystead.ReasonSignatureInvalid: connect.CodePermissionDenied,
		keystead.ReasonOverloaded:       connect.CodeUnavailable,
		keystead.ReasonStoreCorrupt:     connect.CodeInternal,
	} {
		if got := connect.CodeOf(Encode(keystead.Deny(keystead.Finding{Reason: reason}))); got != want {
			t.Errorf("%s: %v, not %v", reason, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, err := proto.Marshal(Message(keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Got: "g"})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x0a, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r apiv1.Refusal
		if proto.Unmarshal(raw, &r) != nil {
			return
		}
		deny := Parse(&r)
		if deny == nil {
			return
		}
		if len(deny.Findings) == 0 || len(deny.Findings) > maxFindings {
			t.Fatalf("%d findings", len(deny.Findings))
		}
		for _, x := range deny.Findings {
			if !x.Reason.Known() {
				t.Errorf("%q is no reason", x.Reason)
			}
		}
		if again := Parse(Message(deny)); !reflect.DeepEqual(again, deny) {
			t.Errorf("%+v became %+v", deny, again)
		}
	})
}
