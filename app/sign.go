package app

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"path"
	"slices"
	"strings"

	"github.com/keystead/keystead"
)

// noteContext opens what a sub-certificate's key signs. No context of the house begins
// with another, so no signature stands for another.
const noteContext = "keystead/app-signature/1\x00"

// A Signing is what a program is to say of itself.
type Signing struct {
	Name        string
	Libraries   []string      // that may be mapped (Closure)
	Certificate []byte        // the sub-certificate of that name, DER
	Key         crypto.Signer // of the sub-certificate: ECDSA on P-256
}

// A Patch makes a signed file of an unsigned one: its first bytes are replaced by Header,
// and Trailer comes behind it.
type Patch struct {
	Note    *Note
	Header  []byte
	Trailer []byte
}

// Signed returns the signed file. File is the unsigned one, of p.Note.Size bytes.
func (p *Patch) Signed(file io.ReaderAt) *Joined {
	return &Joined{parts: []io.ReaderAt{bytesAt(p.Header), file, bytesAt(p.Trailer)},
		ends: []int64{headerSize, int64(p.Note.Size), int64(p.Note.Size) + int64(len(p.Trailer))}, starts: []int64{0, 0, int64(p.Note.Size)}}
}

// Sign signs a file of size bytes. It refuses with binary-unsuitable what can not be
// signed, among it a file that is signed already ([Program.Unsigned] is to be signed
// anew); with app-cert-foreign a certificate of another name or key.
func Sign(random io.Reader, file io.ReaderAt, size int64, s Signing) (*Patch, error) {
	image, err := ParseImage(file, size)
	if err != nil {
		return nil, err
	}
	if raw, err := image.readNote(file); err != nil || raw != nil {
		return nil, errors.Join(err, unsuitable("an unsigned file", "one that is signed"))
	}
	certificate, err := parseSub(s.Certificate)
	if err != nil {
		return nil, err
	}
	if !certificate.key.Equal(s.Key.Public()) {
		return nil, certForeign("a sub-certificate of the key that signs", "one of another key")
	}
	if certificate.name != s.Name {
		return nil, certForeign("a sub-certificate of "+s.Name, "one of "+certificate.name)
	}
	n := &Note{Name: s.Name, Size: uint64(size), Certificate: slices.Clone(s.Certificate), sections: image.fields()}
	n.Libraries = slices.Sorted(slices.Values(s.Libraries))
	n.Libraries = slices.Compact(n.Libraries)
	if n.Text, err = image.FileText(file); err != nil {
		return nil, err
	}
	if n.File, err = digest(io.NewSectionReader(file, 0, size)); err != nil {
		return nil, err
	}
	if n.Signature, err = signLow(random, s.Key, signed(noteContext, n.body())); err != nil {
		return nil, err
	}
	raw, err := n.Encode()
	if err != nil {
		return nil, err
	}
	trailer, now, err := image.trailer(file, raw)
	if err != nil {
		return nil, err
	}
	now.put(image.header[:])
	return &Patch{Note: n, Header: image.header[:], Trailer: trailer}, nil
}

// signed returns the digest that a signature is over.
func signed(context string, body []byte) []byte {
	h := sha256.New()
	io.WriteString(h, context)
	h.Write(body)
	return h.Sum(nil)
}

func digest(r io.Reader) (d keystead.Digest, err error) {
	h := sha256.New()
	_, err = io.CopyBuffer(onlyWriter{h}, r, make([]byte, 128<<10))
	h.Sum(d[:0])
	return d, err
}

// An ECDSA signature has a twin, (r, n-s). The one with the lower s counts, so that a
// signed file has one spelling.
type signature struct{ R, S *big.Int }

var halfOrder = new(big.Int).Rsh(elliptic.P256().Params().N, 1)

func signLow(random io.Reader, key crypto.Signer, digest []byte) ([]byte, error) {
	der, err := key.Sign(random, digest, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	var s signature
	if rest, err := asn1.Unmarshal(der, &s); err != nil || len(rest) > 0 {
		return nil, errors.New("sign: the key gives no ECDSA signature")
	}
	if s.S.Cmp(halfOrder) > 0 {
		s.S.Sub(elliptic.P256().Params().N, s.S)
	}
	return asn1.Marshal(s)
}

func verifyLow(key *ecdsa.PublicKey, digest, der []byte) bool {
	var s signature
	rest, err := asn1.Unmarshal(der, &s)
	return err == nil && len(rest) == 0 && s.S.Cmp(halfOrder) <= 0 && ecdsa.VerifyASN1(key, digest, der)
}

// Closure returns the names of the libraries that a program may come to have mapped: its
// loader, what it needs, and what those need in turn, and further ones that it opens by
// itself. Find returns the image of a library by its name, or of the loader by its path.
// It refuses with binary-unsuitable libraries without a name of their own (DT_SONAME).
func Closure(program *Image, further []string, find func(string) (*Image, error)) ([]string, error) {
	names := map[string]bool{}
	next := slices.Concat(program.Needed, further)
	if program.Interpreter != "" {
		loader, err := find(program.Interpreter)
		if err != nil {
			return nil, fmt.Errorf("loader %s: %w", program.Interpreter, err)
		}
		names[loader.orName(program.loader())] = true
	}
	for len(next) > 0 {
		name := next[0]
		if next = next[1:]; names[name] || name == muslName && names[program.loader()] && strings.HasPrefix(program.loader(), muslLoader) {
			continue
		}
		library, err := find(name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("library %s: %w", name, err)
		case library.Name != name:
			return nil, unsuitable("a library that calls itself "+name, "one that calls itself %q", library.Name)
		case len(names) >= maxLibraries:
			return nil, unsuitable("at most 128 libraries", "more")
		}
		names[name] = true
		next = append(next, library.Needed...)
	}
	var out []string
	for name := range names {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}

// musl's loader is its library as well, which programs ask for by this name.
const muslLoader, muslName = "ld-musl-", "libc.so"

// loader is the last word of the path under which the program asks for its loader.
func (i *Image) loader() string { return path.Base(i.Interpreter) }

// orName is the library's own name, or another.
func (i *Image) orName(other string) string {
	if i.Name != "" {
		return i.Name
	}
	return other
}

// LibraryName returns what a mapped library is called: its own name. The loader of a program
// (by the kernel's word that it is the file of that path) may have none, and is then called
// by the last word of the path.
func (i *Image) LibraryName(library *Image, isLoader bool) string {
	if isLoader {
		return library.orName(i.loader())
	}
	return library.Name
}
