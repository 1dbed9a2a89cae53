package deb

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/refval"
)

// MaxRelease bounds an InRelease file, in bytes.
const MaxRelease = 16 << 20

const timeFormat = "2006-01-02 15:04:05 UTC"

// Release is a repository's verified table of contents. Only VerifyRelease makes one.
type Release struct {
	Origin, Label, Suite, Codename string
	Date                           time.Time
	ValidUntil                     time.Time // zero: no end is stated
	ByHash                         bool      // indexes can be had by their digest
	Digest                         keystead.Digest
	Signers                        []string // fingerprints of the primary keys that signed, sorted
	files                          map[string]fileSum
}

type fileSum struct {
	size   int64
	digest keystead.Digest
}

// VerifyRelease checks an InRelease file: the whole of it is one clear-signed
// message, signed by at least one key of the keyring that is valid at the time, and
// the time is between its Date and its Valid-Until. Refusals are index-unsigned,
// index-future and index-expired. Only the signed text is read.
func VerifyRelease(raw []byte, keyring Keyring, at time.Time) (*Release, error) {
	if len(raw) > MaxRelease {
		return nil, releaseError(0, "whole", "is %d bytes long, at most %d are accepted", len(raw), MaxRelease)
	}
	text, signers, err := signedText(raw, keyring, at)
	if err != nil {
		return nil, err
	}
	r, err := parseRelease(text)
	if err != nil {
		return nil, err
	}
	r.Digest, r.Signers = keystead.Sum(raw), signers
	where := r.Codename + " InRelease"
	if r.Date.After(at) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexFuture, Where: where,
			Want: "Date of " + at.UTC().Format(timeFormat) + " or before", Got: r.Date.Format(timeFormat)})
	}
	if !r.ValidUntil.IsZero() && at.After(r.ValidUntil) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexExpired, Where: where,
			Want: "Valid-Until of " + at.UTC().Format(timeFormat) + " or later", Got: r.ValidUntil.Format(timeFormat)})
	}
	return r, nil
}

// signedText returns what the signatures of a clear-signed message cover, with line
// ends as \n. Trailing blanks and dash escapes are not covered and not in it.
func signedText(raw []byte, keyring Keyring, at time.Time) (text []byte, signers []string, err error) {
	unsigned := func(got string) ([]byte, []string, error) {
		return nil, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexUnsigned, Where: "InRelease",
			Want: fmt.Sprintf("one text signed by a key of the keyring (%d certificates)", keyring.Len()), Got: got})
	}
	if !bytes.HasPrefix(raw, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return unsigned("something else before the signed text")
	}
	block, rest := clearsign.Decode(raw)
	if block == nil {
		return unsigned("no complete clear-signed message")
	}
	if len(rest) > 0 {
		return unsigned(fmt.Sprintf("%d bytes after the signature", len(rest)))
	}
	good, bad, err := keyring.Verify(block.Bytes, block.ArmoredSignature.Body, at)
	if err != nil {
		return unsigned("a signature block that does not parse: " + err.Error())
	}
	if len(good) == 0 {
		if bad == nil {
			return unsigned("no signature")
		}
		return unsigned(strings.ReplaceAll(errors.Join(bad...).Error(), "\n", "; "))
	}
	for _, s := range good {
		if !s.Made.After(at) && !slices.Contains(signers, s.Signer) {
			signers = append(signers, s.Signer)
		}
	}
	if signers == nil {
		return nil, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexFuture, Where: "InRelease",
			Want: "signed on " + at.UTC().Format(timeFormat) + " or before", Got: good[0].Made.UTC().Format(timeFormat)})
	}
	slices.Sort(signers)
	return bytes.ReplaceAll(block.Bytes, []byte("\r\n"), []byte("\n")), signers, nil
}

func releaseError(line int, field, format string, args ...any) error {
	return &keystead.FormatError{Format: "deb-release", Offset: int64(line), Field: field, Problem: fmt.Sprintf(format, args...)}
}

// parseRelease reads the one stanza of a Release file.
func parseRelease(text []byte) (*Release, error) {
	r := &Release{files: map[string]fileSum{}}
	stanzas := 0
	for s, err := range Stanzas("deb-release", text) {
		if err != nil {
			return nil, err
		}
		if stanzas++; stanzas > 1 {
			return nil, releaseError(s.Offset, "stanza", "there is more than one")
		}
		if err := r.read(s); err != nil {
			return nil, err
		}
	}
	if r.Date.IsZero() {
		return nil, releaseError(0, "Date", "is missing")
	}
	return r, nil
}

func (r *Release) read(s *Stanza) (err error) {
	date := func(field string) (t time.Time) {
		v := s.Get(field)
		if v == "" || err != nil {
			return t
		}
		for _, layout := range []string{time.RFC1123, time.RFC1123Z} {
			if t, perr := time.Parse(layout, v); perr == nil && (layout == time.RFC1123Z || strings.HasSuffix(v, " UTC") || strings.HasSuffix(v, " GMT")) {
				return t.UTC()
			}
		}
		err = releaseError(s.Offset, field, "%.60q is not a date in UTC", v)
		return t
	}
	r.Origin, r.Label, r.Suite, r.Codename = s.Get("Origin"), s.Get("Label"), s.Get("Suite"), s.Get("Codename")
	r.Date, r.ValidUntil, r.ByHash = date("Date"), date("Valid-Until"), s.Get("Acquire-By-Hash") == "yes"
	for _, v := range []string{r.Origin, r.Label, r.Suite, r.Codename} {
		if err == nil && !printable(v, true) {
			err = releaseError(s.Offset, "Origin, Label, Suite or Codename", "%.60q holds more than printable ASCII", v)
		}
	}
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(s.Get("SHA256"), "\n") {
		if line == "" {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 {
			return releaseError(s.Offset, "SHA256", "%.80q is not a digest, a size and a name", line)
		}
		digest, derr := keystead.ParseDigest("sha256:" + f[0])
		size, serr := strconv.ParseInt(f[1], 10, 64)
		if derr != nil || serr != nil || size < 0 {
			return releaseError(s.Offset, "SHA256", "%.80q is not a digest, a size and a name", line)
		}
		if old, ok := r.files[f[2]]; ok && old != (fileSum{size, digest}) {
			return releaseError(s.Offset, "SHA256", "states %.80q twice and differently", f[2])
		}
		r.files[f[2]] = fileSum{size, digest}
	}
	return nil
}

// Is reports whether the release is the one that a source asks for: by suite or codename.
func (r *Release) Is(name string) bool { return name != "" && (name == r.Suite || name == r.Codename) }

// Repository gives the release as a reference set's header names it.
func (r *Release) Repository() refval.Repository {
	v := refval.Repository{Origin: r.Origin, Suite: r.Suite, Codename: r.Codename, Release: r.Digest, Date: r.Date.Unix(), Signers: r.Signers}
	if !r.ValidUntil.IsZero() {
		v.ValidUntil = r.ValidUntil.Unix()
	}
	return v
}
