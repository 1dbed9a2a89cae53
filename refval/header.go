package refval

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
)

// Header says what a set was built from. It is part of the set's bytes, so two
// builders who verified the same repositories get the same digest; mirrors and
// dates of building are therefore not in it.
type Header struct {
	Selection    Selection    `json:"selection"`
	Repositories []Repository `json:"repositories"`
	Packages     []Package    `json:"packages"`
	Missing      []Missing    `json:"missing"` // asked for and not found, sorted; their files are not in the set
}

// Selection says which of a package's regular files are in the set.
type Selection string

const (
	// SelectAll takes every regular file.
	SelectAll Selection = "all"
	// SelectExecutable takes what can be executed or mapped: any execute bit, ELF, or
	// a name as of a shared object or kernel module.
	SelectExecutable Selection = "executable"
	// SelectMixed is a merge of sets of different selections.
	SelectMixed Selection = "mixed"
)

// Repository is one signed index.
type Repository struct {
	Origin     string          `json:"origin"`   // as the vendor says: Debian
	Suite      string          `json:"suite"`    // stable-security
	Codename   string          `json:"codename"` // bookworm-security
	Release    keystead.Digest `json:"release"`  // of the InRelease file's bytes
	Date       int64           `json:"date"`     // Unix seconds, signed
	ValidUntil int64           `json:"valid_until,omitempty"`
	Signers    []string        `json:"signers"` // fingerprints of the keys that signed and were accepted, sorted
}

// name is what a Source gives as its origin.
func (r Repository) name() string { return r.Origin + " " + r.Codename + " " + r.Suite }

// Package is one package whose files are in the set.
type Package struct {
	Name         string          `json:"name"`
	Version      string          `json:"version"`
	Architecture string          `json:"architecture"`
	Digest       keystead.Digest `json:"digest"` // of the package file
	Strength     Strength        `json:"strength"`
	Repositories []int           `json:"repositories"` // the signed indexes that offer it, by number, ascending
}

func (p Package) compare(q Package) int {
	return cmp.Or(strings.Compare(p.Name, q.Name), strings.Compare(p.Version, q.Version), strings.Compare(p.Architecture, q.Architecture),
		bytes.Compare(p.Digest[:], q.Digest[:]), int(p.Strength)-int(q.Strength))
}

// Missing is a package that was asked for and could not be proven.
type Missing struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Problem      string `json:"problem"`
}

func (m Missing) compare(n Missing) int {
	return cmp.Or(strings.Compare(m.Name, n.Name), strings.Compare(m.Version, n.Version), strings.Compare(m.Architecture, n.Architecture), strings.Compare(m.Problem, n.Problem))
}

// Finding puts it as a refusal would.
func (m Missing) Finding() keystead.Finding {
	return keystead.Finding{
		Reason: keystead.ReasonPackageMissing,
		Where:  m.Name + "=" + m.Version + ":" + m.Architecture,
		Want:   "this version in a signed index",
		Got:    m.Problem,
	}
}

func (r Repository) compare(q Repository) int { return bytes.Compare(r.Release[:], q.Release[:]) }

// encode gives the one spelling of a header.
func (h Header) encode() []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(h); err != nil {
		panic(err) // strings and numbers always encode
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// parseHeader reads a header and accepts only the spelling that encode gives.
func parseHeader(raw []byte) (Header, error) {
	var h Header
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return h, err
	}
	if err := h.check(); err != nil {
		return h, err
	}
	if !bytes.Equal(h.encode(), raw) {
		return h, errors.New("is not in the one spelling that the format admits")
	}
	return h, nil
}

func (h Header) check() error {
	switch h.Selection {
	case SelectAll, SelectExecutable, SelectMixed:
	default:
		return fmt.Errorf("selection %q is not known", h.Selection)
	}
	if h.Repositories == nil || h.Packages == nil || h.Missing == nil {
		return errors.New("repositories, packages and missing must be lists")
	}
	for i, r := range h.Repositories {
		if i > 0 && h.Repositories[i-1].compare(r) >= 0 {
			return fmt.Errorf("repository %d is out of order", i)
		}
		if len(r.Signers) == 0 || !slices.IsSorted(r.Signers) {
			return fmt.Errorf("repository %d: signers must be named, in order", i)
		}
		if err := plain(append(r.Signers, r.Origin, r.Suite, r.Codename)...); err != nil {
			return fmt.Errorf("repository %d: %w", i, err)
		}
	}
	for i, p := range h.Packages {
		if i > 0 && h.Packages[i-1].compare(p) >= 0 {
			return fmt.Errorf("package %d is out of order", i)
		}
		if err := p.check(len(h.Repositories)); err != nil {
			return fmt.Errorf("package %d: %w", i, err)
		}
	}
	for i, m := range h.Missing {
		if i > 0 && h.Missing[i-1].compare(m) >= 0 {
			return fmt.Errorf("missing package %d is out of order", i)
		}
		if err := plain(m.Name, m.Version, m.Architecture, m.Problem); err != nil {
			return fmt.Errorf("missing package %d: %w", i, err)
		}
	}
	return nil
}

func (p Package) check(repositories int) error {
	if p.Name == "" || p.Version == "" {
		return errors.New("name and version must be given")
	}
	if !p.Strength.Suffices() {
		return fmt.Errorf("strength %v does not suffice", p.Strength)
	}
	if len(p.Repositories) == 0 {
		return errors.New("no repository offers it")
	}
	for i, r := range p.Repositories {
		if r < 0 || r >= repositories || i > 0 && p.Repositories[i-1] >= r {
			return fmt.Errorf("repository %d is unknown or out of order", r)
		}
	}
	return plain(p.Name, p.Version, p.Architecture)
}

// plain admits printable ASCII, which every JSON writer spells alike but for quotes.
func plain(fields ...string) error {
	for _, s := range fields {
		for i := range len(s) {
			if s[i] < ' ' || s[i] > '~' {
				return fmt.Errorf("%q holds more than printable ASCII", s)
			}
		}
	}
	return nil
}
