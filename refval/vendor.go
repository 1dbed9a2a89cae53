package refval

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/pgp"
)

// A Vendor is somebody whose signature makes packages acceptable, and for which ones.
type Vendor struct {
	Name     string
	Format   Format
	Packages []string // names, or what names begin with and an asterisk; sorted
	Key      []byte   // OpenPGP certificates, binary; of Alpine's, an RSA public key (PKIX DER)
}

// Covers reports whether packages of that name are the vendor's to sign.
func (v Vendor) Covers(name string) bool {
	return slices.ContainsFunc(v.Packages, func(p string) bool {
		prefix, open := strings.CutSuffix(p, "*")
		return name == prefix || open && strings.HasPrefix(name, prefix)
	})
}

// Signers returns the fingerprints that reference sets have for the vendor's keys:
// of OpenPGP certificates, else SHA-256 of the key, in upper-case hex.
func (v Vendor) Signers() ([]string, error) {
	if v.Format == FormatAPK {
		if _, err := rsaKey(v.Key); err != nil {
			return nil, err
		}
		d := keystead.Sum(v.Key)
		return []string{fmt.Sprintf("%X", d[:])}, nil
	}
	keys, err := pgp.ParseKeyring(v.Key)
	if err != nil {
		return nil, err
	}
	return keys.Fingerprints(), nil
}

// Note that an RSA key below this many bits is not accepted.
const minRSABits = 2048

func rsaKey(der []byte) (*rsa.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	k, ok := public.(*rsa.PublicKey)
	if !ok || k.N.BitLen() < minRSABits || k.N.BitLen() > 8192 {
		return nil, fmt.Errorf("want an RSA key of %d to 8192 bits", minRSABits)
	}
	return k, nil
}

// An IMAKey is a key whose IMA signatures name files.
type IMAKey struct {
	Name string
	Key  []byte // PKIX DER: RSA, or ECDSA over P-256 or P-384
}

// Public returns the key.
func (k IMAKey) Public() (crypto.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(k.Key)
	if err != nil {
		return nil, err
	}
	switch p := public.(type) {
	case *rsa.PublicKey:
		return rsaKey(k.Key)
	case *ecdsa.PublicKey:
		if bits := p.Curve.Params().BitSize; bits == 256 || bits == 384 {
			return p, nil
		}
	}
	return nil, fmt.Errorf("want an RSA key, or one of ECDSA over P-256 or P-384")
}

// Bounds of a code set's vendors and IMA keys: each costs verifiers time.
const (
	maxVendors = 64
	maxIMAKeys = 16
)

// WithTrust returns the code set with vendors and IMA keys added to it, unsigned. It
// fails if these have no text form.
func (c *CodeSet) WithTrust(vendors []Vendor, keys []IMAKey) (*CodeSet, error) {
	text := c.raised(2)
	for _, v := range vendors {
		text += fmt.Sprintf("vendor %s %s packages=%s key=%s\n", v.Name, v.Format, strings.Join(v.Packages, ","), base64.StdEncoding.EncodeToString(v.Key))
	}
	for _, k := range keys {
		text += fmt.Sprintf("ima-key %s %s\n", k.Name, base64.StdEncoding.EncodeToString(k.Key))
	}
	return ParseCodeSet(text)
}

// Vendors returns whose packages the code set accepts, in its order.
func (c *CodeSet) Vendors() iter.Seq[Vendor] { return slices.Values(c.vendors) }

// IMAKeys returns whose IMA signatures the code set accepts, in its order.
func (c *CodeSet) IMAKeys() iter.Seq[IMAKey] { return slices.Values(c.imaKeys) }

// parseVendor reads "NAME FORMAT packages=LIST key=BASE64".
func (c *CodeSet) parseVendor(rest string) error {
	f := strings.Split(rest, " ")
	if len(f) != 4 || !strings.HasPrefix(f[2], "packages=") || !strings.HasPrefix(f[3], "key=") {
		return fmt.Errorf("want: vendor NAME FORMAT packages=LIST key=BASE64")
	}
	v := Vendor{Name: f[0], Packages: strings.Split(strings.TrimPrefix(f[2], "packages="), ",")}
	if err := checkWord("name", v.Name); err != nil {
		return err
	}
	switch f[1] {
	case "deb":
	case string(FormatRPM), string(FormatAPK):
		v.Format = Format(f[1])
	default:
		return fmt.Errorf("vendor %s: format %.20q is not one of deb, rpm, apk", v.Name, f[1])
	}
	for i, p := range v.Packages {
		if bare := strings.TrimSuffix(p, "*"); p == "" || strings.Contains(bare, "*") || checkWord("package", p) != nil || i > 0 && v.Packages[i-1] >= p {
			return fmt.Errorf("vendor %s: packages are names, or beginnings with an asterisk, in ascending order; got %.80q", v.Name, p)
		}
	}
	if slices.ContainsFunc(c.vendors, func(o Vendor) bool { return o.Name == v.Name }) || len(c.vendors) == maxVendors {
		return fmt.Errorf("vendor %s is stated twice, or is one more than the %d that are accepted", v.Name, maxVendors)
	}
	var err error
	if v.Key, err = strictBase64(strings.TrimPrefix(f[3], "key=")); err == nil {
		_, err = v.Signers()
	}
	if err != nil {
		return fmt.Errorf("vendor %s: key: %w", v.Name, err)
	}
	c.vendors = append(c.vendors, v)
	return nil
}

// parseIMAKey reads "NAME BASE64".
func (c *CodeSet) parseIMAKey(rest string) error {
	name, text, ok := strings.Cut(rest, " ")
	if !ok {
		return fmt.Errorf("want: ima-key NAME BASE64")
	}
	if err := checkWord("name", name); err != nil {
		return err
	}
	if slices.ContainsFunc(c.imaKeys, func(o IMAKey) bool { return o.Name == name }) || len(c.imaKeys) == maxIMAKeys {
		return fmt.Errorf("ima-key %s is stated twice, or is one more than the %d that are accepted", name, maxIMAKeys)
	}
	k := IMAKey{Name: name}
	var err error
	if k.Key, err = strictBase64(text); err == nil {
		_, err = k.Public()
	}
	if err != nil {
		return fmt.Errorf("ima-key %s: %w", name, err)
	}
	c.imaKeys = append(c.imaKeys, k)
	return nil
}

// strictBase64 reads the one spelling of bytes.
func strictBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && base64.StdEncoding.EncodeToString(b) != s {
		err = fmt.Errorf("is not in the one spelling of base64")
	}
	return b, err
}
