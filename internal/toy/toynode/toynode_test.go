package toynode_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/toy"
	"github.com/keystead/keystead/internal/toy/toynode"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/part/parttest"
)

// ask calls the procedure as any client does.
func ask(t *testing.T, url, name string) (status int, answer string) {
	t.Helper()
	r, err := http.Post(url+toy.Greet, "application/json", strings.NewReader(`"`+name+`"`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// nickname proposes one that these members sign.
func nickname(t *testing.T, subject, name string, by ...key.Member) *ledger.Proposal {
	t.Helper()
	note := []byte(string(toy.KindNickname) + "\n" + name + "\n")
	for _, m := range by {
		var err error
		if note, err = m.Sign(note); err != nil {
			t.Fatal(err)
		}
	}
	return &ledger.Proposal{Type: toy.TypeNickname, Subject: subject, Content: note}
}

// TestToy runs the toy on a ledger of three nodes: members name somebody, the nodes endorse it,
// and who is greeted is greeted by that name, signed, with a record.
func TestToy(t *testing.T) {
	p := toynode.New()
	b := parttest.New(t, p, 3)
	if status, answer := ask(t, b.API.URL, "ada"); status != 200 || answer != `"hello ada, from n1"` {
		t.Fatalf("%d %s", status, answer)
	}
	if _, err := b.Decide(t.Context(), nickname(t, "ada", "countess", b.Member)); err != nil {
		t.Fatal(err)
	}
	if p.Effective() != 1 {
		t.Errorf("%d effective entries were told", p.Effective())
	}
	if _, answer := ask(t, b.API.URL, "ada"); answer != `"hello countess, from n1"` {
		t.Error(answer)
	}
	var signature key.NodeSignature
	err := b.View(func(v ledger.View) error {
		x, err := v.Get(toy.Contract + "/last")
		copy(signature[:], x.Data)
		return err
	})
	if err != nil || !b.Public().Verify(part.Signed(toy.Context, []byte("hello countess, from n1")), signature) {
		t.Errorf("the record is not signed: %v", err)
	}
	if b.Public().Verify([]byte("hello countess, from n1"), signature) {
		t.Error("the signature holds without its context")
	}
}

// TestToyRefuses: a stranger's nickname, one that too few nodes endorse, and a node that may not
// sign.
func TestToyRefuses(t *testing.T) {
	b := parttest.New(t, toynode.New(), 3)
	stranger, err := key.NewMember(strings.NewReader(strings.Repeat("x", 64)), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Decide(t.Context(), nickname(t, "ada", "mallory", stranger)); !errors.Is(err, keystead.ReasonNoteUnsigned) {
		t.Errorf("a stranger's: %v", err)
	}
	b.Endorse = 1
	if _, err := b.Decide(t.Context(), nickname(t, "ada", "countess", b.Member)); !errors.Is(err, keystead.ReasonMajorityMissing) {
		t.Errorf("endorsed by one of three: %v", err)
	}
	b.Closed = keystead.Deny(keystead.Finding{Reason: keystead.ReasonLedgerForked, Where: "ledger"})
	if status, answer := ask(t, b.API.URL, "ada"); status == 200 || !strings.Contains(answer, string(keystead.ReasonLedgerForked)) {
		t.Errorf("a node that may not sign: %d %s", status, answer)
	}
	if status, answer := ask(t, b.API.URL, strings.Repeat("a", 2<<10)); status == 200 || !strings.Contains(answer, string(keystead.ReasonTooLarge)) {
		t.Errorf("more than the procedure takes: %d %s", status, answer)
	}
}

// TestToyUndeclared leaves out one thing after the other: each is refused then, and with it the
// same goes through.
func TestToyUndeclared(t *testing.T) {
	for without, try := range Undeclared {
		for _, leave := range []string{"", without} {
			p := toynode.New()
			p.Without = leave
			b := parttest.New(t, p, 1)
			err := try(t.Context(), p.Host(), b)
			want := through[without] // when it is declared
			if leave != "" {
				want = keystead.ReasonPartUndeclared
			}
			if want == nil && err != nil || want != nil && !errors.Is(err, want) {
				t.Errorf("%s, left out %q: %v, want %v", without, leave, err, want)
			}
		}
	}
	p := toynode.New()
	p.Without = "procedure"
	if status, _ := ask(t, parttest.New(t, p, 1).API.URL, "ada"); status != http.StatusNotFound {
		t.Errorf("a procedure that is not declared answers %d", status)
	}
	p = toynode.New()
	p.Without = "sees"
	b := parttest.New(t, p, 1)
	if _, err := b.Decide(t.Context(), nickname(t, "ada", "countess", b.Member)); err != nil || p.Effective() != 0 {
		t.Errorf("told of %d entries of a kind that it does not see: %v", p.Effective(), err)
	}
}

// through is what becomes of each when it is declared: the ledger refuses the endorsement of a
// proposal that nobody made.
var through = map[string]error{"kind": keystead.ReasonProposalUnknown}

// Undeclared is what a part asks its host for, by what it has to declare.
var Undeclared = map[string]func(context.Context, part.Host, *parttest.Bench) error{
	"contract": func(ctx context.Context, h part.Host, _ *parttest.Bench) error {
		return h.Log().Transact(ctx, toy.Contract, []ledger.Write{{Key: toy.Contract + "/a", Value: []byte("b")}})
	},
	"context": func(_ context.Context, h part.Host, _ *parttest.Bench) error {
		_, err := h.Log().Sign(toy.Context, []byte("x"))
		return err
	},
	"type": func(ctx context.Context, h part.Host, b *parttest.Bench) error {
		note, err := b.Member.Sign([]byte(string(toy.KindNickname) + "\ncountess\n"))
		if err == nil {
			_, err = h.Log().Decide(ctx, &ledger.Proposal{Type: toy.TypeNickname, Subject: "ada", Content: note})
		}
		return err
	},
	"kind": func(ctx context.Context, h part.Host, b *parttest.Bench) error {
		k, err := key.NewNode(strings.NewReader(strings.Repeat("x", 64)))
		if err != nil {
			return err
		}
		e := ledger.Endorse(k, "n1", h.Self().Domain, &ledger.Verdict{Type: toy.TypeNickname, Subject: "ada"})
		_, err = h.Log().Propose(ctx, e.Entry())
		return err
	},
}
