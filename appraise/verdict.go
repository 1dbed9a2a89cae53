package appraise

import (
	"bytes"
	"reflect"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

const verdictFormat = "keystead-verdict/1"

// A Verdict is what appraisal concluded. It is minted here only; the zero value denies.
type Verdict struct {
	body verdictBody
	raw  []byte

	answered bool
	guest    keystead.Digest
}

// verdictBody is the wire form; encoding/json writes its fields in this order.
type verdictBody struct {
	Format      string             `json:"format"`
	Allowed     bool               `json:"allowed"`
	Established bool               `json:"established"` // root of trust and logs hold, so the claims are proven
	Assurance   evidence.Assurance `json:"assurance"`
	Findings    []keystead.Finding `json:"findings"`
	Omitted     int                `json:"findings_omitted,omitempty"` // beyond the bound; the claims count all
	Claims      evidence.Claims    `json:"claims"`
	Inputs      Inputs             `json:"inputs"`
}

// Inputs name everything that the verdict is a function of, so that it can be
// computed again.
type Inputs struct {
	Bundle     keystead.Digest   `json:"bundle"`
	Purpose    string            `json:"purpose"`
	Nonce      []byte            `json:"nonce"`
	SubjectKey []byte            `json:"subject_key,omitempty"`
	Key        AcceptedKey       `json:"key,omitzero"`
	EKRoots    keystead.Digest   `json:"ek_roots"`
	References []keystead.Digest `json:"references"`
	CodeSets   []keystead.Digest `json:"code_sets"`
	Ended      []EndedSet        `json:"ended,omitempty"` // that counted until a time before
	Collateral keystead.Digest   `json:"collateral,omitzero"`
	TEERoots   keystead.Digest   `json:"tee_roots,omitzero"`
	Policy     keystead.Digest   `json:"policy"`
	PolicyName string            `json:"policy_name"`
	Time       time.Time         `json:"time"`
}

// Allowed reports whether the evidence passed.
func (v Verdict) Allowed() bool { return v.raw != nil && v.body.Allowed }

// Established reports whether root of trust and logs hold, so that the claims are
// proven, whether or not software and policy pass.
func (v Verdict) Established() bool { return v.raw != nil && v.body.Established }

// Err returns nil if the evidence passed, else a DenyError with all findings.
func (v Verdict) Err() error {
	switch {
	case v.Allowed():
		return nil
	case v.raw == nil:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "verdict", Want: "a verdict", Got: "none"})
	}
	return keystead.Deny(v.body.Findings...)
}

// Answered reports whether the evidence of a TEE, alone in its bundle, was signed under a
// vendor's root that counts, in answer to this very question: then it speaks for a
// guest, also where it is refused. It does not say whose guest: whoever has a machine
// of that vendor can have it sign for any question and any subject key.
func (v Verdict) Answered() bool { return v.raw != nil && v.answered }

// Guest names the guest of a TEE that answered; zero where none did. It stays from launch
// to end as far as its kind shows that ([evidence.TEEClaims.Guest]).
func (v Verdict) Guest() keystead.Digest { return v.guest }

// Assurance returns how strong the evidence is, whether or not it passed.
func (v Verdict) Assurance() evidence.Assurance { return v.body.Assurance }

// Findings returns what speaks against the host; none if it passed.
func (v Verdict) Findings() []keystead.Finding { return slices.Clone(v.body.Findings) }

// Claims returns what could be established: nothing where the root of trust does not
// hold. The caller must not change it.
func (v Verdict) Claims() evidence.Claims { return v.body.Claims }

// Inputs returns the names of what went in.
func (v Verdict) Inputs() Inputs { return v.body.Inputs }

// Bytes returns the verdict's JSON (docs/spec/verdict.md), the same for the same input.
// The caller must not change it.
func (v Verdict) Bytes() []byte { return v.raw }

// Digest names the verdict; nodes of a domain compare and sign it.
func (v Verdict) Digest() keystead.Digest { return keystead.Sum(v.raw) }

// MarshalJSON returns Bytes.
func (v Verdict) MarshalJSON() ([]byte, error) {
	if v.raw == nil {
		return []byte("null"), nil
	}
	return v.raw, nil
}

// mint gives the zero Verdict, which denies, if a time of the input has no text form:
// one outside of the years 0 to 9999.
func mint(body verdictBody) Verdict {
	body.Format = verdictFormat
	body.writeEmptyLists()
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	raw, err := encodeVerdict((*scratch)[:0], reflect.ValueOf(&body).Elem())
	if *scratch = raw; err != nil {
		return Verdict{}
	}
	return Verdict{body: body, raw: bytes.Clone(raw)}
}

// writeEmptyLists makes each list one that JSON writes as [], or as "", never as null.
func (b *verdictBody) writeEmptyLists() {
	c, in := &b.Claims, &b.Inputs
	empty(&b.Findings)
	empty(&c.Quote.PCRs)
	empty(&in.Nonce)
	empty(&in.References)
	empty(&in.CodeSets)
	for _, list := range []*[]string{&c.Quote.Banks, &c.Boot.Loaded, &c.Boot.Packages, &c.Boot.Keys, &c.Boot.Authorities, &c.Kernel.Guarantees, &c.Software.Packages, &c.Packages.Unlisted, &c.Packages.Unproven, &c.Packages.Outdated, &c.Packages.Debuggers,
		&c.TEE.Registers, &c.TEE.Advisories, &c.TEE.Loaded, &c.TEE.Booted, &c.TEE.CommandLines} {
		empty(list)
	}
	empty(&c.TEE.TCB)
	empty(&c.TEE.TCBCommitted)
}

func empty[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}
