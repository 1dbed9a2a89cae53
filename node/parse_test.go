package node

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

func FuzzParseApplication(f *testing.F) {
	a := application{bundle: keystead.Sum([]byte("bundle")), tick: 7, ak: keystead.Sum([]byte("ak"))}
	f.Add(a.bytes())
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := parseApplication(raw)
		var format *keystead.FormatError
		switch {
		case err == nil && !bytes.Equal(a.bytes(), raw):
			t.Errorf("%x is read as %x", raw, a.bytes())
		case err != nil && !errors.As(err, &format):
			t.Errorf("refused with %T", err)
		}
	})
}

// signedAuthority is an authority that a node signed.
func signedAuthority(t testing.TB) (signed []byte, domain keystead.Digest, node receipt.Node, k *key.Node) {
	k, err := key.NewNode(constant(1))
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAuthority("test", "n1", time.Unix(1_790_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	domain = keystead.Sum([]byte("domain"))
	return client.SignAuthority(k, domain, "n1", a.cert.Raw), domain, receipt.Node{Name: "n1", Key: k.Public()}, k
}

// TestAuthority opens what a node published, and what others make of it.
func TestAuthority(t *testing.T) {
	signed, domain, node, _ := signedAuthority(t)
	if _, err := client.OpenAuthority(signed, domain, node); err != nil {
		t.Fatal(err)
	}
	other, err := key.NewNode(constant(2))
	if err != nil {
		t.Fatal(err)
	}
	var format *keystead.FormatError
	if _, err := client.OpenAuthority(signed, domain, receipt.Node{Name: "n1", Key: other.Public()}); !errors.Is(err, keystead.ReasonSignatureInvalid) {
		t.Errorf("signed by another key: %v", err)
	}
	if _, err := client.OpenAuthority(signed, keystead.Sum(nil), node); !errors.As(err, &format) {
		t.Errorf("of another domain: %v", err)
	}
	if _, err := client.OpenAuthority(signed, domain, receipt.Node{Name: "n2", Key: node.Key}); !errors.As(err, &format) {
		t.Errorf("of another node: %v", err)
	}
	if _, err := client.OpenAuthority(nil, domain, node); !errors.As(err, &format) {
		t.Errorf("nothing: %v", err)
	}
}

func FuzzOpenAuthority(f *testing.F) {
	signed, domain, node, k := signedAuthority(f)
	f.Add(signed)
	f.Add([]byte("keystead-authority/1\n\nsignature \n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if der, err := client.OpenAuthority(raw, domain, node); err == nil && !bytes.Equal(client.SignAuthority(k, domain, "n1", der), raw) {
			t.Errorf("%q is accepted", raw)
		}
	})
}
