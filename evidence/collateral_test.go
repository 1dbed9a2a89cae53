package evidence

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
)

func TestCollateralIsDeterministic(t *testing.T) {
	day := time.Unix(1_800_000_000, 0)
	a, b := Piece{Kind: "a", Name: "2", Data: []byte("x")}, Piece{Kind: "a", Name: "1", Data: []byte("y"), Chain: []byte("z"), Source: "https://example.org"}
	one, err := NewCollateral(day, []Piece{a, b})
	if err != nil {
		t.Fatal(err)
	}
	two, err := NewCollateral(day, []Piece{b, a})
	if err != nil || !bytes.Equal(one.Bytes(), two.Bytes()) || one.Digest() != keystead.Sum(one.Bytes()) || !one.Dated().Equal(day) {
		t.Errorf("the order of pieces counts: %v", err)
	}
	if p, err := one.Find("a", "1"); err != nil || string(p.Data) != "y" {
		t.Errorf("%+v, %v", p, err)
	}
	var none *Collateral
	for _, c := range []*Collateral{one, none, {}} {
		if _, err := c.Find("a", "3"); !errors.Is(err, keystead.ReasonCollateralMissing) {
			t.Errorf("a piece that is not there: %v", err)
		}
	}
	if _, err := NewCollateral(day, []Piece{a, a}); err == nil {
		t.Error("a piece is there twice")
	}
	if _, err := NewCollateral(day, []Piece{{Kind: "a", Data: make([]byte, maxSmall+1)}}); err == nil {
		t.Error("a piece is too large")
	}
	if _, err := NewCollateral(day, make([]Piece, 1)); err == nil {
		t.Error("a piece has no kind")
	}
	many := make([]Piece, maxItems+1)
	for i := range many {
		many[i] = Piece{Kind: "a", Name: string(rune(0x4e00 + i))}
	}
	if _, err := NewCollateral(day, many); err == nil {
		t.Error("there are too many pieces")
	}
	for name, raw := range map[string][]byte{"empty": nil, "torn": one.Bytes()[:len(one.Bytes())-1], "trailing": append(bytes.Clone(one.Bytes()), 0), "a bundle": must(New(sample())).Bytes()} {
		var format *keystead.FormatError
		if _, err := ParseCollateral(raw); !errors.As(err, &format) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCollateral(f *testing.F) {
	c, err := NewCollateral(time.Unix(1, 0), []Piece{{Kind: "a", Name: "1", Data: []byte("x")}, {Kind: "b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseCollateral(raw)
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Errorf("%v is no FormatError", err)
		}
		if err == nil && !bytes.Equal(c.Bytes(), raw) {
			t.Error("the bytes are others")
		}
	})
}

// TestTEEBounds: an item that is of no kind, empty or too large is refused.
func TestTEEBounds(t *testing.T) {
	p := Parts{Binding: Binding{Purpose: PurposeVerify, Nonce: []byte("nonce")}}
	for name, item := range map[string]TEE{
		"no kind":      {Kind: "sev", Report: []byte{1}},
		"empty":        {Kind: KindSNP},
		"large":        {Kind: KindSNP, Report: make([]byte, MaxReport+1)},
		"certificates": {Kind: KindSNP, Report: []byte{1}, Certificates: make([][]byte, maxCertificates+1)},
		"log":          {Kind: KindTDX, Report: []byte{1}, Log: make([]byte, MaxEventLog+1)},
	} {
		p.TEE = &item
		var format *keystead.FormatError
		if _, err := New(p); !errors.As(err, &format) || format.Field != "tee" {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.TEE = &TEE{Kind: KindTDX, Report: []byte{1}, Log: make([]byte, MaxEventLog)}
	if _, err := New(p); err != nil {
		t.Errorf("the largest log: %v", err)
	}
}
