package evidence_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// TestTEEIdentity: each field counts, and none runs into the next.
func TestTEEIdentity(t *testing.T) {
	key := keystead.Sum([]byte("key"))
	hosts := []evidence.TEEHost{
		{Kind: evidence.KindSNP, Machine: "ab", Key: key}, {Kind: evidence.KindTDX, Machine: "ab", Key: key},
		{Kind: evidence.KindSNP, Machine: "abc", Key: key}, {Kind: evidence.KindSNP, Machine: "ab", Key: keystead.Sum([]byte("other"))},
		{Kind: "sev-snpa", Machine: "b", Key: key},
	}
	seen := map[keystead.Digest]bool{}
	for _, h := range hosts {
		if seen[h.Identity()] {
			t.Errorf("%+v has the identity of another", h)
		}
		seen[h.Identity()] = true
	}
	// SHA-256 over the label, a zero byte, and 7, 2 and 32 bytes with their lengths before them.
	if got := hosts[0].Identity().String(); got != "sha256:8820d8437583a95a66014565f680a49f68a8555f6bb8bf88414ae493372a82e0" {
		t.Errorf("identity %s", got)
	}
}

// TestTEEHostCheck: what no host can be.
func TestTEEHostCheck(t *testing.T) {
	good := evidence.TEEHost{Kind: evidence.KindNitro, Machine: "i-0abc-enc0123", Key: keystead.Sum(nil)}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for what, edit := range map[string]func(*evidence.TEEHost){
		"an enclave":    func(h *evidence.TEEHost) { h.Kind = evidence.KindSGX },
		"no kind":       func(h *evidence.TEEHost) { h.Kind = "" },
		"no machine":    func(h *evidence.TEEHost) { h.Machine = "" },
		"a line's end":  func(h *evidence.TEEHost) { h.Machine = "ab\ncd" },
		"a long name":   func(h *evidence.TEEHost) { h.Machine = strings.Repeat("a", 257) },
		"no key":        func(h *evidence.TEEHost) { h.Key = keystead.Digest{} },
		"no characters": func(h *evidence.TEEHost) { h.Machine = "é" },
	} {
		h := good
		if edit(&h); h.Check() == nil {
			t.Errorf("%s: %+v is accepted", what, h)
		}
	}
}

// TestJoinCollateral: several bundles are one, and none of them says what another says.
func TestJoinCollateral(t *testing.T) {
	piece := func(name string) evidence.Piece {
		return evidence.Piece{Kind: evidence.CollateralAMDCRL, Name: name, Data: []byte{1}}
	}
	bundle := func(day int, names ...string) *evidence.Collateral {
		var pieces []evidence.Piece
		for _, n := range names {
			pieces = append(pieces, piece(n))
		}
		c, err := evidence.NewCollateral(time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC), pieces)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	join := func(all ...*evidence.Collateral) *evidence.Collateral {
		t.Helper()
		c, err := evidence.JoinCollateral(all)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two := bundle(1, "vcek/Milan"), bundle(2, "vcek/Genoa", "vlek/Milan")
	if join() != nil || join(one) != one {
		t.Error("none, or one, becomes another")
	}
	both := join(one, two)
	if len(both.Pieces()) != 3 || !both.Dated().Equal(two.Dated()) || join(two, one).Digest() != both.Digest() {
		t.Errorf("%d pieces of %v, in whose order is %t", len(both.Pieces()), both.Dated(), join(two, one).Digest() != both.Digest())
	}
	if _, err := evidence.JoinCollateral([]*evidence.Collateral{one, bundle(3, "vcek/Milan")}); err == nil || !strings.Contains(err.Error(), "each once") {
		t.Errorf("two lists of one authority: %v", err)
	}
}
