package key_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/keystead/keystead/key"
)

func node(t *testing.T, b byte) *key.Node {
	k, err := key.NewNode(bytes.NewReader(bytes.Repeat([]byte{b}, key.NodeSeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNodeSigns(t *testing.T) {
	a, b := node(t, 1), node(t, 2)
	sig := a.Sign([]byte("text"))
	if !a.Public().Verify([]byte("text"), sig) {
		t.Error("a key refuses its own signature")
	}
	if a.Public().Verify([]byte("texT"), sig) || b.Public().Verify([]byte("text"), sig) {
		t.Error("a signature holds for another text or another key")
	}
	if _, err := key.NewNode(strings.NewReader("too short")); err == nil {
		t.Error("a key was made of too little randomness")
	}
}

func TestNodeIsNeverPrinted(t *testing.T) {
	k := node(t, 7)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		out := fmt.Sprintf(verb, k) + fmt.Sprintf(verb, struct{ K *key.Node }{k})
		if strings.Contains(out, hex.EncodeToString(bytes.Repeat([]byte{7}, 8))) || strings.Contains(out, "7 7 7 7") || strings.Contains(out, "0x7, 0x7") {
			t.Errorf("%s shows the seed: %s", verb, out)
		}
	}
}

func TestNodePublicText(t *testing.T) {
	p := node(t, 1).Public()
	q, err := key.ParseNodePublic(p.String())
	if err != nil || p != q {
		t.Fatalf("%v, %v", q, err)
	}
	for _, s := range []string{"", "node-ed25519:", "node-ed25519:AAAA", p.String() + "A", strings.ToUpper(p.String()), p.String()[1:]} {
		if _, err := key.ParseNodePublic(s); err == nil {
			t.Errorf("%q was read as a key", s)
		}
	}
}
