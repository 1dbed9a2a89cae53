package rpm

import (
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// A Refusal is a package of a host's list that does not prove itself.
type Refusal struct {
	Name, Version string
	Finding       keystead.Finding
	Files         []refval.File // as the header claims; digests may be zero
}

// Lie reports whether the header was meddled with. Packages that nobody signed, or
// somebody else, are merely unproven.
func (r Refusal) Lie() bool {
	return r.Finding.Reason == keystead.ReasonHeaderAltered || r.Finding.Reason == keystead.ReasonHeaderAmbiguous
}

// Proven is what a host's headers come to.
type Proven struct {
	Set      *refval.Set      // of the packages that prove themselves
	Packages []refval.Package // all, proven or not, in order of the list; of keys that rpm imported, none
	Refused  []Refusal
	Weak     []Refusal // proven packages whose files have MD5 or SHA-1 digests only
	Latest   time.Time // of the signatures that were counted
	Early    bool      // a signature is dated after the time, and would count then
}

// maxRefusedFiles bounds what is kept of the files of packages without proof.
const maxRefusedFiles = 1 << 18

// maxWord bounds a package's name, version and architecture, in bytes.
const maxWord = 256

// Prove holds each header against the vendors' keys, at the time, and builds the set
// of those that pass. A vendor's signature counts for the packages that are the
// vendor's to sign, else it is package-foreign. It fails with a *keystead.FormatError
// for a list that does not parse.
func Prove(headers iter.Seq2[*Header, error], vendors []refval.Vendor, selection refval.Selection, at time.Time) (*Proven, error) {
	p := prover{selection: selection, at: at, builder: refval.NewBuilder(selection)}
	for _, v := range vendors {
		if v.Format != refval.FormatRPM {
			continue
		}
		keys, err := ParseKeyring(v.Key)
		if err != nil {
			return nil, err
		}
		p.keys = p.keys.Add(keys)
		p.vendors, p.signers = append(p.vendors, v), append(p.signers, keys.Fingerprints())
	}
	for h, err := range headers {
		if err != nil {
			return nil, err
		}
		if h.Pseudo() {
			continue
		}
		if err := p.header(h); err != nil {
			return nil, err
		}
	}
	var err error
	p.out.Set, err = p.builder.Set()
	return &p.out, err
}

type prover struct {
	selection refval.Selection
	at        time.Time
	keys      Keyring
	vendors   []refval.Vendor
	signers   [][]string // fingerprints of each
	builder   *refval.Builder
	files     int // of packages without proof
	out       Proven
}

func (p *prover) header(h *Header) error {
	pkg := h.Package()
	for _, word := range []string{pkg.Name, pkg.Version, pkg.Architecture} {
		if len(word) > maxWord { // it is repeated in verdicts, whoever signed it
			return headerError(0, "name", "begins with %.40q and is %d bytes long, names, versions and architectures of at most %d are accepted", word, len(word), maxWord)
		}
	}
	p.out.Packages = append(p.out.Packages, pkg)
	origin, made, err := p.origin(h)
	if err != nil {
		return p.refuse(&p.out.Refused, h, err)
	}
	files, err := h.Files()
	if err == nil {
		err = printable(h, pkg)
	}
	if err != nil {
		return p.refuse(&p.out.Refused, h, h.deny(keystead.ReasonMalformed, "a header whose lists fit", err.Error()))
	}
	var taken, weak []refval.File
	for _, f := range files {
		switch {
		case f.Weak:
			weak = append(weak, f.File)
		case p.selection == refval.SelectAll || f.Executable():
			taken = append(taken, f.File)
		}
	}
	if weak != nil {
		p.out.Weak = append(p.out.Weak, Refusal{pkg.Name, pkg.Version, keystead.Finding{Reason: keystead.ReasonDigestWeak, Where: h.String(),
			Want: "digests of files by SHA-256", Got: "by MD5 or SHA-1"}, weak})
	}
	if made.After(p.out.Latest) {
		p.out.Latest = made
	}
	return p.builder.Add(pkg, []refval.Repository{origin.Repository()}, taken)
}

// ever is a time after all signatures.
var ever = time.Unix(1<<40, 0)

// origin says which vendor vouches for the package.
func (p *prover) origin(h *Header) (Origin, time.Time, error) {
	proof, err := h.Verify(p.keys, p.at)
	if err != nil {
		if errors.Is(err, keystead.ReasonPackageForeign) {
			_, later := h.Verify(p.keys, ever)
			p.out.Early = p.out.Early || later == nil
		}
		return Origin{}, time.Time{}, err
	}
	var others []string
	for i, v := range p.vendors {
		if !slices.Contains(p.signers[i], proof.Signer) {
			continue
		}
		if v.Covers(h.Name()) {
			return Origin{v.Name, proof.Signer}, proof.Made, nil
		}
		others = append(others, v.Name+", whose are "+strings.Join(v.Packages, ", "))
	}
	return Origin{}, time.Time{}, h.deny(keystead.ReasonPackageForeign, "a signature by a vendor whose package it is", "by "+strings.Join(others, "; "))
}

func (p *prover) refuse(list *[]Refusal, h *Header, err error) error {
	var deny *keystead.DenyError
	if !errors.As(err, &deny) {
		return err
	}
	r := Refusal{Name: h.Name(), Version: h.Version(), Finding: deny.Findings[0]}
	if p.files < maxRefusedFiles {
		files, _ := h.Files() // a claim at most
		for _, f := range files[:min(len(files), maxRefusedFiles-p.files)] {
			r.Files = append(r.Files, f.File)
		}
		p.files += len(r.Files)
	}
	*list = append(*list, r)
	return nil
}

// printable holds name, version and architecture to what a reference set can say.
func printable(h *Header, pkg refval.Package) error {
	for _, s := range []string{pkg.Name, pkg.Version, pkg.Architecture} {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return headerError(0, "name", "%.80q is not of printable ASCII", s)
		}
	}
	return nil
}
