package client_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
)

func signer(t testing.TB, seed string) *key.Node {
	k, err := key.NewNode(strings.NewReader(strings.Repeat(seed, key.NodeSeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func contact(t testing.TB) (client.Contact, []byte) {
	k := signer(t, "a")
	c := client.Contact{Name: "n1", Key: k.Public(), AK: key.DigestAK([]byte("ak")), TLS: keystead.Sum([]byte("tls")), Peer: "127.0.0.1:7101", API: "https://127.0.0.1:7201"}
	return c, c.Sign(k)
}

// TestContact signs a contact and changes each of its lines.
func TestContact(t *testing.T) {
	want, signed := contact(t)
	got, err := client.OpenContact(signed)
	if err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	for from, to := range map[string]string{"name n1": "name n2", "7101": "7102", "https:": "http:", "tls sha256:": "tls sha256:0", "attestation ak:": "attestation ak:0", want.AK.String(): "ak:none"} {
		if _, err := client.OpenContact(bytes.Replace(signed, []byte(from), []byte(to), 1)); err == nil {
			t.Errorf("%s as %s was accepted", from, to)
		}
	}
	other := want.Sign(signer(t, "b"))
	if _, err := client.OpenContact(other); !errors.Is(err, keystead.ReasonSignatureInvalid) {
		t.Errorf("signed by another key: %v", err)
	}
}

func FuzzOpenContact(f *testing.F) {
	_, signed := contact(f)
	f.Add(signed)
	f.Add([]byte("keystead-contact/1\n\nsignature \n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := client.OpenContact(raw)
		if err == nil && !bytes.HasPrefix(raw, []byte("keystead-contact/1\nname "+c.Name+"\n")) {
			t.Errorf("%q gives %+v", raw, c)
		}
	})
}

func FuzzParseDomain(f *testing.F) {
	_, signed := contact(f)
	f.Add((&client.Domain{Genesis: []byte("x\n\n— a b\n"), Contacts: [][]byte{signed}}).Encode())
	f.Add([]byte(`{"keystead-domain":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := client.ParseDomain(raw)
		if err != nil {
			return
		}
		if again, err := client.ParseDomain(d.Encode()); err != nil || len(again.Contacts) != len(d.Contacts) {
			t.Errorf("%q: %v", raw, err)
		}
	})
}
