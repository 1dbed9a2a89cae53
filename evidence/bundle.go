// Package evidence holds a host's evidence as it crosses the wire, and the typed
// claims that appraisal draws from it.
//
// A [Bundle] is untrusted: parsing checks syntax and bounds only. The rooms below
// this one parse and verify one format each: tpm2 (quotes, keys, credential
// activation), eventlog (the firmware's log), ima (the kernel's log).
package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/keystead/keystead"
)

// Bounds of a bundle. They hold for a machine with half a million measured files.
const (
	MaxBundle   = 256 << 20 // bytes, whole
	MaxEventLog = 16 << 20  // bytes
	MaxIMALog   = 192 << 20 // bytes
	MaxPackages = 32 << 20  // bytes
	maxSmall    = 1 << 20   // bytes, any other item
	maxNonce    = 64        // bytes: what TPM2B_DATA holds on every TPM
)

// bundleMagic opens a bundle and carries its version. It only ever grows:
//
//	1  binding, origin, tpm, event log, IMA log, package list; later: tee
const bundleMagic = "keystead-bundle/1"

// Parts are what a bundle is made of.
type Parts struct {
	Binding  Binding
	Origin   Origin
	TPM      *TPM   // nil when no quote was taken
	EventLog []byte // binary_bios_measurements as read: TCG2 crypto-agile or the older format
	IMALog   []byte // binary_runtime_measurements as read
	Packages *PackageList
	TEE      *TEE // nil when the machine is none, or has none
}

// Origin is what a host says of itself. It helps a person to tell bundles apart
// and is evidence of nothing.
type Origin struct {
	Hostname  string `cbor:"1,keyasint,omitempty" json:"hostname,omitempty"`
	Collected int64  `cbor:"2,keyasint,omitempty" json:"collected,omitempty"` // Unix seconds by the host's own clock
	Note      string `cbor:"3,keyasint,omitempty" json:"note,omitempty"`      // such as: replayed from a recording
}

// TPM is a TPM 2.0 quote with what is needed to judge it. All byte strings are
// the TPM's own encodings (TPM 2.0 Part 2).
type TPM struct {
	AKPublic      []byte   `cbor:"1,keyasint"`           // TPMT_PUBLIC
	Attest        []byte   `cbor:"2,keyasint"`           // TPMS_ATTEST
	Signature     []byte   `cbor:"3,keyasint"`           // TPMT_SIGNATURE
	PCRs          []Values `cbor:"4,keyasint"`           // every quoted register
	EKPublic      []byte   `cbor:"5,keyasint,omitempty"` // TPMT_PUBLIC
	EKCertificate [][]byte `cbor:"6,keyasint,omitempty"` // DER, leaf first
}

// Values is the wire form of [PCRs].
type Values struct {
	Bank  Bank           `cbor:"1,keyasint"`
	Value map[int][]byte `cbor:"2,keyasint"`
}

// PackageList is the host's package metadata database. The host sends it, so it
// counts as names and versions only, and as more where it proves itself (rpm).
type PackageList struct {
	Format string `cbor:"1,keyasint"` // FormatDpkgStatus, FormatRPMHeaders, FormatAPKInstalled
	Data   []byte `cbor:"2,keyasint"`
}

// Formats of package lists.
const (
	FormatDpkgStatus   = "dpkg-status"   // /var/lib/dpkg/status as it stands on the host
	FormatRPMHeaders   = "rpm-headers"   // the headers of the host's rpm database, packed (docs/spec/bundle.md)
	FormatAPKInstalled = "apk-installed" // /lib/apk/db/installed as it stands on the host
)

// item types of version 1.
const (
	itemBinding = iota + 1
	itemOrigin
	itemTPM
	itemEventLog
	itemIMALog
	itemPackages
	itemTEE
)

var itemNames = [...]string{"", "binding", "origin", "tpm", "event-log", "ima-log", "packages", "tee"}

type item struct {
	_       struct{} `cbor:",toarray"`
	Type    int
	Content cbor.RawMessage
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   8,
		MaxArrayElements:  1024,
		MaxMapPairs:       1024,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A Bundle is evidence as received. The zero value is empty and denies.
type Bundle struct {
	raw       []byte
	digest    keystead.Digest
	parts     Parts
	continues Reference // zero in a whole bundle
}

// New makes a bundle of its parts, within the same bounds that Parse enforces.
func New(p Parts) (Bundle, error) {
	return Parse(p.encode(must(encMode.Marshal(bundleMagic))))
}

// encode appends the items.
func (p Parts) encode(raw []byte) []byte {
	buf := bytes.NewBuffer(raw)
	put := func(kind int, present bool, v any) {
		if present {
			buf.Write(must(encMode.Marshal(item{Type: kind, Content: must(encMode.Marshal(v))})))
		}
	}
	put(itemBinding, true, p.Binding)
	put(itemOrigin, p.Origin != Origin{}, p.Origin)
	put(itemTPM, p.TPM != nil, p.TPM)
	put(itemEventLog, p.EventLog != nil, p.EventLog)
	put(itemIMALog, p.IMALog != nil, p.IMALog)
	put(itemPackages, p.Packages != nil, p.Packages)
	put(itemTEE, p.TEE != nil, p.TEE)
	return buf.Bytes()
}

// Parse reads a bundle (docs/spec/bundle.md). It fails with a
// *keystead.FormatError that names the offset and the item.
func Parse(raw []byte) (Bundle, error) {
	if len(raw) > MaxBundle {
		return Bundle{}, formatError(0, "whole", fmt.Errorf("is %d bytes long, at most %d are accepted", len(raw), MaxBundle))
	}
	magic, rest, ok := quickText(raw)
	var err error
	if !ok {
		rest, err = decMode.UnmarshalFirst(raw, &magic)
	}
	if err == nil && magic != bundleMagic && magic != continuationMagic {
		err = fmt.Errorf("is %.40q, want %q", magic, bundleMagic)
	}
	if err != nil {
		return Bundle{}, formatError(0, "magic", err)
	}
	b := Bundle{raw: raw, digest: keystead.Sum(raw)}
	if magic == continuationMagic {
		if rest, err = b.reference(rest); err != nil {
			return Bundle{}, err
		}
	}
	last := 0
	for len(rest) > 0 {
		off := len(raw) - len(rest)
		it, after, ok := quickItem(rest)
		if !ok {
			after, err = decMode.UnmarshalFirst(rest, &it)
		}
		if rest = after; err != nil {
			return Bundle{}, formatError(off, "item", err)
		}
		if it.Type <= last || it.Type >= len(itemNames) {
			return Bundle{}, formatError(off, "item", fmt.Errorf("type %d after type %d: types are 1 to %d in ascending order, each once", it.Type, last, len(itemNames)-1))
		}
		last = it.Type
		if err := b.parts.set(it.Type, it.Content); err != nil {
			return Bundle{}, formatError(off, itemNames[it.Type], err)
		}
	}
	if b.parts.Binding.Purpose == "" {
		return Bundle{}, formatError(len(raw), "binding", errors.New("is missing"))
	}
	if err := b.whole(); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

func (p *Parts) set(kind int, content []byte) error {
	limit := maxSmall
	var into any
	switch kind {
	case itemBinding:
		into = &p.Binding
	case itemOrigin:
		into = &p.Origin
	case itemTPM:
		p.TPM = new(TPM)
		into = p.TPM
	case itemEventLog:
		limit, into = MaxEventLog, &p.EventLog
	case itemIMALog:
		limit, into = MaxIMALog, &p.IMALog
	case itemPackages:
		p.Packages = new(PackageList)
		limit, into = MaxPackages, p.Packages
	case itemTEE:
		p.TEE = new(TEE)
		limit, into = MaxEventLog+maxSmall, p.TEE
	}
	if len(content) > limit {
		return fmt.Errorf("is %d bytes long, at most %d are accepted", len(content), limit)
	}
	if !quick(content, into) {
		if err := decMode.Unmarshal(content, into); err != nil {
			return err
		}
	}
	switch {
	case kind == itemBinding && len(p.Binding.Nonce) > maxNonce:
		return fmt.Errorf("nonce is %d bytes long, at most %d are accepted", len(p.Binding.Nonce), maxNonce)
	case kind == itemTPM:
		_, err := p.TPM.PCRBanks()
		return err
	case kind == itemTEE:
		return p.TEE.check()
	}
	return nil
}

func formatError(off int, field string, err error) error {
	return &keystead.FormatError{Format: "bundle", Offset: int64(off), Field: field, Problem: err.Error()}
}

// Bytes returns the bundle as received. The caller must not change it.
func (b Bundle) Bytes() []byte { return b.raw }

// Digest names the bundle; it is zero for the zero Bundle.
func (b Bundle) Digest() keystead.Digest { return b.digest }

// Parts returns what the bundle is made of. The caller must not change it.
func (b Bundle) Parts() Parts { return b.parts }

// PCRBanks returns the stated register values, one entry a bank.
func (t *TPM) PCRBanks() ([]PCRs, error) {
	var out []PCRs
	for _, v := range t.PCRs {
		p := PCRs{Bank: v.Bank}
		if v.Bank.Size() == 0 {
			return nil, fmt.Errorf("PCR bank %v is not known", v.Bank)
		}
		for _, o := range out {
			if o.Bank == v.Bank {
				return nil, fmt.Errorf("PCR bank %v is stated twice", v.Bank)
			}
		}
		for i, val := range v.Value {
			if !v.fits(i) {
				return nil, v.misfit()
			}
			p.Value[i] = val
		}
		out = append(out, p)
	}
	return out, nil
}

// fits reports whether register i is one, with a value of the bank's size.
func (v Values) fits(i int) bool { return i >= 0 && i < NumPCRs && len(v.Value[i]) == v.Bank.Size() }

// misfit names the first register that does not fit, so that the same bytes give the
// same error.
func (v Values) misfit() error {
	for _, i := range slices.Sorted(maps.Keys(v.Value)) {
		if !v.fits(i) {
			return fmt.Errorf("PCR %d of bank %v: registers are 0 to %d with %d bytes each", i, v.Bank, NumPCRs-1, v.Bank.Size())
		}
	}
	return nil
}

// WireValues returns the wire form of register values.
func WireValues(p PCRs) Values {
	v := Values{Bank: p.Bank, Value: map[int][]byte{}}
	for i, val := range p.Value {
		if val != nil {
			v.Value[i] = val
		}
	}
	return v
}
