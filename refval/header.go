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

// Selection says which of a package's regular files are in the set, and by what digest.
type Selection string

const (
	// SelectAll takes every regular file.
	SelectAll Selection = "all"
	// SelectExecutable takes what can be executed or mapped: any execute bit, ELF, or
	// a name as of a shared object or kernel module.
	SelectExecutable Selection = "executable"
	// SelectEFI takes EFI programs (PE32+): kernels, shim, boot loaders. Their digests
	// are Authenticode's, as firmware measures them, so such a set is never mixed
	// with others.
	SelectEFI Selection = "efi"
	// SelectBoot takes what is measured before the kernel runs: EFI programs by their
	// Authenticode digests of SHA-256 and of SHA-384, and initrds by SHA-384. A digest of
	// SHA-384 stands by its name (keystead.Measured.Name). Never mixed with others, either.
	SelectBoot Selection = "boot"
	// SelectMixed is a merge of sets of different selections.
	SelectMixed Selection = "mixed"
)

// Boots reports whether a set of the selection is of what is measured before the kernel
// runs, and not of files.
func (s Selection) Boots() bool { return s == SelectEFI || s == SelectBoot }

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
	Format       Format          `json:"format,omitempty"`
}

// Format says what kind of package it is, and so how its versions compare.
type Format string

const (
	// FormatDeb is Debian's, and what is meant where a set names none.
	FormatDeb Format = ""
	// FormatRPM is rpm's.
	FormatRPM Format = "rpm"
	// FormatAPK is Alpine's.
	FormatAPK Format = "apk"
)

// String returns deb, rpm or apk.
func (f Format) String() string { return cmp.Or(string(f), "deb") }

func (p Package) compare(q Package) int {
	return cmp.Or(strings.Compare(p.Name, q.Name), strings.Compare(p.Version, q.Version), strings.Compare(p.Architecture, q.Architecture),
		bytes.Compare(p.Digest[:], q.Digest[:]), int(p.Strength)-int(q.Strength), strings.Compare(string(p.Format), string(q.Format)))
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

// parseHeader reads a header and accepts only the spelling that encode gives. It goes
// element by element and stops at the first that is not one, so that a header of
// millions of empty elements takes no more memory than its bytes.
func parseHeader(raw []byte) (h Header, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return h, fmt.Errorf("begins with %v, %w", open, cmp.Or(err, errors.New("want an object")))
	}
	for err == nil && d.More() {
		var name json.Token
		if name, err = d.Token(); err != nil {
			break
		}
		switch name {
		case "selection":
			err = d.Decode(&h.Selection)
		case "repositories":
			h.Repositories, err = list(d, "repository", Repository.compare, Repository.check)
		case "packages":
			h.Packages, err = list(d, "package", Package.compare, func(p Package) error { return p.check(len(h.Repositories)) })
		case "missing":
			h.Missing, err = list(d, "missing package", Missing.compare, Missing.check)
		default:
			err = fmt.Errorf("%.40q is not one of selection, repositories, packages, missing", name)
		}
	}
	if err != nil {
		return h, err
	}
	switch h.Selection {
	case SelectAll, SelectExecutable, SelectEFI, SelectBoot, SelectMixed:
	default:
		return h, fmt.Errorf("selection %q is not known", h.Selection)
	}
	if h.Repositories == nil || h.Packages == nil || h.Missing == nil {
		return h, errors.New("repositories, packages and missing must be lists")
	}
	if !bytes.Equal(h.encode(), raw) {
		return h, errors.New("is not in the one spelling that the format admits")
	}
	return h, nil
}

// list reads a list of ascending elements.
func list[T any](d *json.Decoder, what string, compare func(T, T) int, check func(T) error) ([]T, error) {
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return nil, errors.New("repositories, packages and missing must be lists")
	}
	out := []T{}
	for n := 0; d.More(); n++ {
		var v T
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("%s %d: %w", what, n, err)
		}
		if n > 0 && compare(out[n-1], v) >= 0 {
			return nil, fmt.Errorf("%s %d is out of order", what, n)
		}
		if err := check(v); err != nil {
			return nil, fmt.Errorf("%s %d: %w", what, n, err)
		}
		out = append(out, v)
	}
	_, err := d.Token() // the list's end
	return out, err
}

func (r Repository) check() error {
	if len(r.Signers) == 0 || !slices.IsSorted(r.Signers) {
		return errors.New("signers must be named, in order")
	}
	return plain(append([]string{r.Origin, r.Suite, r.Codename}, r.Signers...)...)
}

func (m Missing) check() error { return plain(m.Name, m.Version, m.Architecture, m.Problem) }

func (p Package) check(repositories int) error {
	if p.Name == "" || p.Version == "" {
		return errors.New("name and version must be given")
	}
	if !p.Strength.Suffices() {
		return fmt.Errorf("strength %v does not suffice", p.Strength)
	}
	if p.Format != FormatDeb && p.Format != FormatRPM && p.Format != FormatAPK {
		return fmt.Errorf("format %q is not known", p.Format)
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
