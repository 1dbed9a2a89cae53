package contract_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	signatures "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger/contract"
)

type signed struct {
	Algorithm               int
	Key, Message, Signature []byte
}

// probe calls a method of the contract that asks the host for everything.
func probe(t *testing.T) func(method string, input []byte, st state) (contract.Result, error) {
	t.Helper()
	c := load(t, example(t, "../../ledger/contract/testdata/probe"))
	return func(method string, input []byte, st state) (contract.Result, error) {
		return c.Call(t.Context(), &contract.Call{Method: method, Input: input, Caller: contract.Caller{Kind: "user", Name: "ada", Roles: []string{"bidder", "seller"}}, Clock: noon + 1, Seed: [32]byte{1}}, st)
	}
}

// TestSignatures has contracts verify what was really signed, and twins of it.
func TestSignatures(t *testing.T) {
	call := probe(t)
	message := []byte("the message")
	d := sha256.Sum256(message)
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, s, err := ecdsa.Sign(rand.Reader, p, d[:])
	if err != nil {
		t.Fatal(err)
	}
	pKey, err := p.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	pShort := append([]byte{2 + pKey[64]&1}, pKey[1:33]...)
	k, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	compact := signatures.SignCompact(k, d[:], false)
	kSignature := slices.Clone(compact[1:])
	var high secp256k1.ModNScalar
	high.SetByteSlice(kSignature[32:])
	other := high.Negate().Bytes()
	twin := append(slices.Clone(kSignature[:32]), other[:]...)
	pSignature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	altered := func(b []byte) []byte { b = slices.Clone(b); b[len(b)-1] ^= 1; return b }
	for what, x := range map[string]struct {
		signed
		good bool
	}{
		"Ed25519":                                 {signed{1, edPublic, message, ed25519.Sign(edKey, message)}, true},
		"Ed25519 over another message":            {signed{1, edPublic, altered(message), ed25519.Sign(edKey, message)}, false},
		"Ed25519 by a short key":                  {signed{1, edPublic[:31], message, ed25519.Sign(edKey, message)}, false},
		"P-256":                                   {signed{2, pKey, message, pSignature}, true},
		"P-256, a compressed key":                 {signed{2, pShort, message, pSignature}, true},
		"P-256, altered":                          {signed{2, pKey, message, altered(pSignature)}, false},
		"P-256, a point off the curve":            {signed{2, altered(pKey), message, pSignature}, false},
		"P-256, a signature of 63 bytes":          {signed{2, pKey, message, pSignature[:63]}, false},
		"secp256k1":                               {signed{3, k.PubKey().SerializeUncompressed(), d[:], kSignature}, true},
		"secp256k1, a compressed key":             {signed{3, k.PubKey().SerializeCompressed(), d[:], kSignature}, true},
		"secp256k1, the twin with the high s":     {signed{3, k.PubKey().SerializeUncompressed(), d[:], twin}, false},
		"secp256k1 over the message, no digest":   {signed{3, k.PubKey().SerializeUncompressed(), message, kSignature}, false},
		"secp256k1, altered":                      {signed{3, k.PubKey().SerializeUncompressed(), d[:], altered(kSignature)}, false},
		"secp256k1, r and s of zeroes":            {signed{3, k.PubKey().SerializeUncompressed(), d[:], make([]byte, 64)}, false},
		"secp256k1, r of the order's size":        {signed{3, k.PubKey().SerializeUncompressed(), d[:], append(secp256k1.Params().N.Bytes(), kSignature[32:]...)}, false},
		"a signature of P-256 for one of Ed25519": {signed{1, pKey[1:33], message, pSignature}, false},
	} {
		input, _ := json.Marshal(x.signed)
		r, err := call("verify", input, nil)
		if want := map[bool]string{true: "true", false: "false"}[x.good]; err != nil || string(r.Output) != want {
			t.Errorf("%s: %s, want %s: %v", what, r.Output, want, err)
		}
	}
	v := append(slices.Clone(kSignature), compact[0]-27)
	for what, x := range map[string]struct {
		signature []byte
		want      bool
	}{"the signature": {v, true}, "the high s": {append(twin, v[64]^1), false}, "v of 27": {append(slices.Clone(kSignature), compact[0]), false}} {
		input, _ := json.Marshal(signed{0, nil, d[:], x.signature})
		r, err := call("recover_key", input, nil)
		if got := err == nil && slices.Equal(r.Output, k.PubKey().SerializeUncompressed()[1:]); got != x.want {
			t.Errorf("recovery from %s: %x, %v", what, r.Output, err)
		}
	}
}

// TestHost asks for hashes, time, caller, random values and state.
func TestHost(t *testing.T) {
	call := probe(t)
	r, err := call("hashes", []byte("abc"), nil)
	if want := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45 bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"; err != nil || string(r.Output) != want {
		t.Errorf("hashes: %s: %v", r.Output, err)
	}
	r, err = call("around", nil, nil)
	seed, block := [32]byte{1}, make([]byte, 8)
	first := sha256.Sum256(append(append([]byte("keystead contract random/1\n"), seed[:]...), block...))
	block[7] = 1
	second := sha256.Sum256(append(append([]byte("keystead contract random/1\n"), seed[:]...), block...))
	want := "user:ada 2027-01-15T08:00:00.001Z 2027-01-15T08:00:00.001Z " + hex.EncodeToString(first[:]) + hex.EncodeToString(second[:8]) + " map[a:1 b:2]"
	if err != nil || string(r.Output) != want || strings.Join(r.Log, "|") != "a line|another" {
		t.Errorf("around: %s, log %q: %v", r.Output, r.Log, err)
	}
	r, err = call("state", nil, state{"a": []byte("1"), "b": []byte("2"), "c": []byte("3"), "f": []byte("4")})
	if want := "a=1 b=new bb=put d= f=4 b! bb! false true 0"; err != nil || string(r.Output) != want {
		t.Errorf("state: %s, want %s: %v", r.Output, want, err)
	}
	var wrote []string
	for _, w := range r.Writes {
		wrote = append(wrote, string(w.Key)+"="+string(w.Value)+map[bool]string{true: "deleted"}[w.Delete])
	}
	if got := strings.Join(wrote, " "); got != "b=new bb=put c=deleted d= e=deleted" {
		t.Errorf("it wrote %s", got)
	}
	for method, reason := range map[string]keystead.Reason{"sleep": keystead.ReasonContractTrapped, "crash": keystead.ReasonContractTrapped, "hoard": keystead.ReasonMemoryExceeded} {
		_, err := call(method, nil, nil)
		demand(t, method, err, reason)
	}
}
