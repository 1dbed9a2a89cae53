package contract_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger/contract"
)

func specimens(t testing.TB) (spec contract.Spec, user contract.User, k key.Member) {
	t.Helper()
	k, err := key.NewMember(rand.Reader, "alice")
	if err != nil {
		t.Fatal(err)
	}
	d := keystead.Sum([]byte("domain"))
	return contract.Spec{Domain: d, Name: "auction", Code: keystead.Sum([]byte("code")), Bounds: contract.Bounds{Gas: 100, Pages: 4}, Policy: []byte("keystead-policy/1\nname any\nrules none\n")},
		contract.User{Domain: d, Name: "alice", Key: k.Public(), Roles: []string{"bidder", "seller"}}, k
}

// TestTexts reads what members sign, and what they never do.
func TestTexts(t *testing.T) {
	spec, user, _ := specimens(t)
	s, err := spec.Text()
	if err != nil {
		t.Fatal(err)
	}
	u, err := user.Text()
	if err != nil {
		t.Fatal(err)
	}
	user.Revoked = true
	revoked, err := user.Text()
	if err != nil || !strings.HasSuffix(string(revoked), "role seller\nrevoked true\n") {
		t.Errorf("%s: %v", revoked, err)
	}
	for what, x := range map[string]struct {
		text     []byte
		from, to string
	}{
		"a name that nodes write":         {s, "subject auction", "subject svid"},
		"the name of the first contract":  {s, "subject auction", "subject kv"},
		"a name with a slash":             {s, "subject auction", "subject auction/lot"},
		"no gas":                          {s, "gas 100", "gas 0"},
		"more gas than there is":          {s, "gas 100", "gas 10000000001"},
		"more pages than there are":       {s, "pages 4", "pages 1025"},
		"code of zeroes":                  {s, spec.Code.String(), "sha256:" + strings.Repeat("0", 64)},
		"no policy":                       {s, "policy\nkeystead", "keystead"},
		"a policy that does not compile":  {s, "rules none", "rule x\n  require caller.purse > 1\n  otherwise pay"},
		"lines out of order":              {s, "gas 100\npages 4", "pages 4\ngas 100"},
		"a user of another name":          {u, "subject alice", "subject ben"},
		"a user without a key":            {u, "key alice+", "key ben"},
		"roles out of order":              {u, "role bidder\nrole seller", "role seller\nrole bidder"},
		"a role twice":                    {u, "role bidder\nrole seller", "role seller\nrole seller"},
		"a revocation that is none":       {revoked, "revoked true", "revoked false"},
		"a user with something behind it": {revoked, "revoked true\n", "revoked true\nrole x\n"},
	} {
		bad := bytes.Replace(x.text, []byte(x.from), []byte(x.to), 1)
		var format *keystead.FormatError
		var err error
		if _, _, err = contract.ParseSpec(bad); bytes.HasPrefix(bad, []byte(key.KindUser)) {
			_, err = contract.ParseUser(bad)
		}
		if bytes.Equal(bad, x.text) || !errors.As(err, &format) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestSignedCalls holds a signature to its call, in every part.
func TestSignedCalls(t *testing.T) {
	_, _, k := specimens(t)
	q := contract.Question{Domain: keystead.Sum([]byte("domain")), Request: [16]byte{1}, Deadline: 7, Contract: "auction", Method: "bid", Input: []byte("12")}
	signed, err := q.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Verify(signed, k.Public()); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*contract.Question){
		"domain": func(q *contract.Question) { q.Domain[0]++ }, "request": func(q *contract.Question) { q.Request[0]++ }, "deadline": func(q *contract.Question) { q.Deadline++ },
		"contract": func(q *contract.Question) { q.Contract = "auctions" }, "method": func(q *contract.Question) { q.Method = "open" }, "input": func(q *contract.Question) { q.Input = []byte("13") },
	} {
		other := q
		change(&other)
		if err := other.Verify(signed, k.Public()); !errors.Is(err, keystead.ReasonNoteUnsigned) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	stranger, err := key.NewMember(rand.Reader, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Verify(signed, stranger.Public()); !errors.Is(err, keystead.ReasonNoteUnsigned) {
		t.Errorf("another key of that name: %v", err)
	}
}

func FuzzTexts(f *testing.F) {
	spec, user, _ := specimens(f)
	s, _ := spec.Text()
	u, _ := user.Text()
	f.Add(s)
	f.Add(u)
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, _, err := contract.ParseSpec(b); err == nil {
			if again, err := x.Text(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("two spellings: %q and %q: %v", b, again, err)
			}
		}
		if x, err := contract.ParseUser(b); err == nil {
			if again, err := x.Text(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("two spellings: %q and %q: %v", b, again, err)
			}
		}
	})
}
