package evidence

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
)

// MaxCollateral bounds a collateral bundle, in bytes.
const MaxCollateral = 16 << 20

// maxItems bounds how many pieces a collateral bundle has.
const maxItems = 1024

// collateralMagic opens a collateral bundle and carries its version. It only ever grows:
//
//	1  date, pieces
const collateralMagic = "keystead-collateral/1"

// The kinds of collateral. A name says what of the kind a piece is about.
const (
	CollateralAMDChain        = "amd-chain"         // ASK and ARK, or ASVK and ARK; name: vcek/Milan, vlek/Milan, …
	CollateralAMDCRL          = "amd-crl"           // of the ARK; name likewise
	CollateralAMDKey          = "amd-key"           // one chip's VCEK; name: chip id, slash, TCB as 16 hex digits
	CollateralIntelRootCRL    = "intel-root-crl"    // of Intel's SGX root; name: root
	CollateralIntelPCKCRL     = "intel-pck-crl"     // name: platform, processor
	CollateralIntelTCBInfo    = "intel-tcb-info"    // JSON with its issuers; name: tdx/FMSPC, sgx/FMSPC
	CollateralIntelQEIdentity = "intel-qe-identity" // JSON with its issuers; name: tdx, sgx
)

// Piece is one piece of collateral, as its vendor published it.
type Piece struct {
	Kind   string `cbor:"1,keyasint" json:"kind"`
	Name   string `cbor:"2,keyasint" json:"name"`
	Data   []byte `cbor:"3,keyasint" json:"-"`           // PEM, DER or JSON as served
	Chain  []byte `cbor:"4,keyasint,omitempty" json:"-"` // PEM: whoever signed it, leaf first
	Source string `cbor:"5,keyasint,omitempty" json:"source,omitempty"`
}

// A Collateral is what vendors say of their machines, on one day. Nothing in it is
// believed unless a pinned root signed it. The zero value has nothing.
type Collateral struct {
	raw    []byte
	dated  int64
	pieces []Piece
}

type collateralHead struct {
	Dated int64 `cbor:"1,keyasint"` // Unix seconds
}

// NewCollateral makes a collateral bundle: the same pieces and date give the same
// bytes, whatever their order. It fails if two pieces have one kind and name.
func NewCollateral(dated time.Time, pieces []Piece) (*Collateral, error) {
	pieces = slices.Clone(pieces)
	slices.SortFunc(pieces, Piece.compare)
	var buf bytes.Buffer
	buf.Write(must(encMode.Marshal(collateralMagic)))
	buf.Write(must(encMode.Marshal(collateralHead{dated.Unix()})))
	for _, p := range pieces {
		buf.Write(must(encMode.Marshal(p)))
	}
	return ParseCollateral(buf.Bytes())
}

func (p Piece) compare(q Piece) int {
	return cmp.Or(cmp.Compare(p.Kind, q.Kind), cmp.Compare(p.Name, q.Name))
}

// ParseCollateral reads a collateral bundle (docs/spec/collateral.md). It fails with a
// *keystead.FormatError; signatures and dates are checked where a piece is used.
func ParseCollateral(raw []byte) (*Collateral, error) {
	fail := func(rest []byte, field string, err error) (*Collateral, error) {
		return nil, &keystead.FormatError{Format: "collateral", Offset: int64(len(raw) - len(rest)), Field: field, Problem: err.Error()}
	}
	if len(raw) > MaxCollateral {
		return fail(raw, "whole", fmt.Errorf("is %d bytes long, at most %d are accepted", len(raw), MaxCollateral))
	}
	var magic string
	rest, err := decMode.UnmarshalFirst(raw, &magic)
	if err == nil && magic != collateralMagic {
		err = fmt.Errorf("is %.40q, want %q", magic, collateralMagic)
	}
	if err != nil {
		return fail(raw, "magic", err)
	}
	var head collateralHead
	after, err := decMode.UnmarshalFirst(rest, &head)
	if err != nil {
		return fail(rest, "head", err)
	}
	c := &Collateral{raw: raw, dated: head.Dated}
	for rest = after; len(rest) > 0; rest = after {
		var p Piece
		if after, err = decMode.UnmarshalFirst(rest, &p); err != nil {
			return fail(rest, "piece", err)
		}
		switch n := len(c.pieces); {
		case n == maxItems:
			err = fmt.Errorf("is one of more than %d", maxItems)
		case len(p.Data) > maxSmall || len(p.Chain) > maxSmall || len(p.Kind)+len(p.Name)+len(p.Source) > 4096:
			err = fmt.Errorf("%.40s %.200s is larger than %d bytes", p.Kind, p.Name, maxSmall)
		case p.Kind == "":
			err = errors.New("has no kind")
		case n > 0 && c.pieces[n-1].compare(p) >= 0:
			err = fmt.Errorf("%.40s %.200s does not stand in ascending order, each once", p.Kind, p.Name)
		}
		if err != nil {
			return fail(rest, "piece", err)
		}
		c.pieces = append(c.pieces, p)
	}
	return c, nil
}

// JoinCollateral makes one bundle of several, dated as the newest of them. Of one it is
// that one, of none nil. Two pieces of one kind and name are a *keystead.FormatError:
// it would not be said which of them counts.
func JoinCollateral(all []*Collateral) (*Collateral, error) {
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	var pieces []Piece
	var dated time.Time
	for _, c := range all {
		pieces = append(pieces, c.Pieces()...)
		if d := c.Dated(); d.After(dated) {
			dated = d
		}
	}
	return NewCollateral(dated, pieces)
}

// Bytes returns the bundle as read. The caller must not change it.
func (c *Collateral) Bytes() []byte {
	if c == nil {
		return nil
	}
	return c.raw
}

// Digest names the bundle; it is zero for none.
func (c *Collateral) Digest() keystead.Digest {
	if c == nil || c.raw == nil {
		return keystead.Digest{}
	}
	return keystead.Sum(c.raw)
}

// Dated is when its maker says that it was fetched. It is informative: what counts are
// the dates that vendors signed.
func (c *Collateral) Dated() time.Time { return time.Unix(c.dated, 0).UTC() }

// Pieces returns what it is made of, by kind and name. The caller must not change it.
func (c *Collateral) Pieces() []Piece {
	if c == nil {
		return nil
	}
	return c.pieces
}

// Find returns a piece, or refuses with collateral-missing.
func (c *Collateral) Find(kind, name string) (Piece, error) {
	pieces := c.Pieces()
	if i, ok := slices.BinarySearchFunc(pieces, Piece{Kind: kind, Name: name}, Piece.compare); ok {
		return pieces[i], nil
	}
	got := "none given"
	if c != nil {
		got = "nothing of that name in the collateral of " + c.Dated().Format(time.DateOnly)
	}
	return Piece{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonCollateralMissing, Where: "collateral", Want: kind + " " + name, Got: got})
}

// VendorRoots are the vendors' root certificates that count, by the SHA-256 of their
// DER. Nothing else is a root, whatever this machine's store of certificates has.
type VendorRoots struct {
	Hardware []keystead.Digest // of vendors of hardware
	Test     []keystead.Digest // of whoever makes up evidence for tests: assurance is test at most
}

// shippedRoots are the roots that vendors publish, as of November 2026.
var shippedRoots = []string{
	"sha256:69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd", // AMD ARK-Milan
	"sha256:4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1", // AMD ARK-Genoa
	"sha256:1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a", // AMD ARK-Turin
	"sha256:44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3", // Intel SGX Root CA
	"sha256:641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b", // aws.nitro-enclaves G1
}

// ShippedRoots returns the roots of AMD (Milan, Genoa, Turin), Intel and AWS Nitro.
func ShippedRoots() (r VendorRoots) {
	for _, s := range shippedRoots {
		r.Hardware = append(r.Hardware, must(keystead.ParseDigest(s)))
	}
	return r
}
