package rpm

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/pgp"
)

// Keyring holds the OpenPGP certificates of vendors. The zero value accepts nobody.
type Keyring = pgp.Keyring

// ParseKeyring reads certificates: binary, or armoured, of which a file may hold several.
func ParseKeyring(raw []byte) (Keyring, error) { return pgp.ParseKeyring(raw) }

// Proof says who signed a header, and when.
type Proof = pgp.Signature

// Verify proves that a vendor of the keyring signed the header, by the time at. The
// signing key must have been valid when it signed, and not be revoked now. Refusals:
//
//	header-ambiguous  more than a header as rpm keeps it: bytes, tags or data that
//	                  a reader may or may not see
//	header-altered    not the bytes that its own digest, or an accepted vendor's
//	                  signature, is over
//	digest-weak       signed over MD5 or SHA-1 only
//	package-unsigned  no signature of the header
//	package-foreign   signed by somebody else
func (h *Header) Verify(keys Keyring, at time.Time) (Proof, error) {
	if h.signed == nil {
		return Proof{}, h.deny(keystead.ReasonPackageUnsigned, "an OpenPGP signature", "no signed region")
	}
	if h.odd != "" {
		return Proof{}, h.deny(keystead.ReasonHeaderAmbiguous, "a header as rpm keeps it, with nothing to be read in two ways", h.odd)
	}
	if err := h.checkDigests(); err != nil {
		return Proof{}, err
	}
	var bad []error
	signatures, err := h.signatures()
	if err != nil {
		return Proof{}, h.deny(keystead.ReasonPackageUnsigned, "an OpenPGP signature", err.Error())
	}
	for _, raw := range signatures {
		good, others, err := keys.Verify(h.signed, bytes.NewReader(raw), time.Time{})
		if err != nil {
			return Proof{}, h.deny(keystead.ReasonPackageUnsigned, "an OpenPGP signature", err.Error())
		}
		for _, s := range good {
			if !s.Made.After(at) {
				return s, nil
			}
			others = append(others, &pgp.Error{Fault: pgp.FaultKey, Err: fmt.Errorf("%s: signed on %s, which is to come", s.Signer, s.Made.UTC().Format(time.RFC3339))})
		}
		bad = append(bad, others...)
	}
	return Proof{}, h.refuse(keys, bad)
}

// refuse says why none of the signatures counts, by the one that says most.
func (h *Header) refuse(keys Keyring, bad []error) error {
	want := fmt.Sprintf("a signature by an accepted vendor's key (%d certificates)", keys.Len())
	worst := pgp.Fault(0)
	var words []string
	for _, err := range bad {
		var e *pgp.Error
		if errors.As(err, &e) {
			worst = max(worst, e.Fault)
		}
		words = append(words, err.Error())
	}
	reason := map[pgp.Fault]keystead.Reason{0: keystead.ReasonPackageUnsigned, pgp.FaultUnknownKey: keystead.ReasonPackageForeign, pgp.FaultWeak: keystead.ReasonDigestWeak,
		pgp.FaultKey: keystead.ReasonPackageForeign, pgp.FaultInvalid: keystead.ReasonHeaderAltered}[worst]
	if words == nil {
		words = []string{"none over the header"}
	}
	return h.deny(reason, want, strings.Join(words, "; "))
}

func (h *Header) deny(r keystead.Reason, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: h.String(), Want: want, Got: got})
}

// checkDigests holds the signed bytes against the digests beside them. These prove
// nothing, since whoever edits a header can state others; they tell an edit from a
// signature by somebody else.
func (h *Header) checkDigests() error {
	full := h.Digest()
	if want := text(h.beside, tagSHA256Header); want != "" && want != hex.EncodeToString(full[:]) {
		return h.deny(keystead.ReasonHeaderAltered, "SHA-256 "+bounded(want), fmt.Sprintf("%x", full[:]))
	}
	short := sha1.Sum(h.signed) // rpm before 4.14 has this one alone
	if want := text(h.beside, tagSHA1Header); want != "" && want != hex.EncodeToString(short[:]) {
		return h.deny(keystead.ReasonHeaderAltered, "SHA-1 "+bounded(want), fmt.Sprintf("%x", short[:]))
	}
	return nil
}

func bounded(s string) string { return fmt.Sprintf("%.80q", s) }

// maxHeaderSignatures bounds the signatures that one header carries.
const maxHeaderSignatures = 16

// signatures returns the OpenPGP packets over the header: RSAHEADER and DSAHEADER (for
// all other algorithms), and OPENPGP of rpm 6, which holds several in base64.
func (h *Header) signatures() (out [][]byte, err error) {
	for _, tag := range []int{tagRSAHeader, tagDSAHeader} {
		if b := binaryOf(h.beside, tag); b != nil {
			out = append(out, b)
		}
	}
	for _, s := range texts(h.beside, tagOpenPGP) {
		b, err := base64.StdEncoding.DecodeString(string(s))
		if err != nil {
			return nil, fmt.Errorf("OPENPGP: %w", err)
		}
		out = append(out, b)
	}
	if len(out) > maxHeaderSignatures {
		return nil, fmt.Errorf("%d signatures, at most %d are looked at", len(out), maxHeaderSignatures)
	}
	return out, nil
}
