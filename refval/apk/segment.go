package apk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/bounded"
)

// cut takes the first gzip member off a file, and returns its packed bytes, what it
// unpacks to, at most limit bytes, and the rest of the file.
func cut(file []byte, limit int64) (packed, text, rest []byte, err error) {
	r := bytes.NewReader(file)
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, nil, nil, err
	}
	z.Multistream(false)
	if text, err = io.ReadAll(&bounded.Reader{R: z, Left: limit}); err != nil {
		return nil, nil, nil, err
	}
	n := len(file) - r.Len()
	return file[:n], text, file[n:], nil
}

// member returns the content of the one regular file of that name in a tar archive,
// which may lack the marks of its end. Twice is an error.
func member(archive []byte, name string) (content []byte, err error) {
	t := tar.NewReader(bytes.NewReader(archive))
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if n == maxControl {
			return nil, fmt.Errorf("holds more than %d members", maxControl)
		}
		if h.Name != name {
			continue
		}
		if content != nil || h.Typeflag != tar.TypeReg {
			return nil, fmt.Errorf("%s is there twice, or is no file", name)
		}
		if content, err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
	if content == nil {
		return nil, fmt.Errorf("holds no %s", name)
	}
	return content, nil
}

// Bounds of what stands before the data, in bytes and members.
const (
	maxSignature = 1 << 20
	maxSigned    = 16 << 20
	maxControl   = 64
	maxSigners   = 8
)

// Key is an RSA key that signs indexes and packages, with the name of its signer.
type Key struct {
	Signer string // SHA-256 of the key (PKIX DER), upper-case hex
	public *rsa.PublicKey
}

// ParseKey reads a public key: PKIX DER.
func ParseKey(der []byte) (Key, error) {
	public, err := x509.ParsePKIXPublicKey(der)
	k, ok := public.(*rsa.PublicKey)
	if err == nil && !ok {
		err = fmt.Errorf("is a %T, want RSA", public)
	}
	if err != nil {
		return Key{}, &keystead.FormatError{Format: "apk-key", Field: "key", Problem: err.Error()}
	}
	d := keystead.Sum(der)
	return Key{fmt.Sprintf("%X", d[:]), k}, nil
}

const (
	signSHA256 = ".SIGN.RSA256."
	signSHA1   = ".SIGN.RSA."
)

// signer verifies the signatures of the first segment over the packed bytes of what
// follows, and returns whose the first good one is. What speaks against it is a reason
// and words.
func signer(signatures, signed []byte, keys []Key) (by string, r keystead.Reason, got string) {
	sum := sha256.Sum256(signed)
	t := tar.NewReader(bytes.NewReader(signatures))
	r, got = keystead.ReasonPackageUnsigned, "no signature"
	for range maxSigners {
		h, err := t.Next()
		if err != nil {
			break
		}
		content, err := io.ReadAll(t)
		switch {
		case err != nil || h.Typeflag != tar.TypeReg:
			continue
		case strings.HasPrefix(h.Name, signSHA256):
			for _, k := range keys {
				if rsa.VerifyPKCS1v15(k.public, crypto.SHA256, sum[:], content) == nil {
					return k.Signer, "", ""
				}
			}
			r, got = keystead.ReasonPackageForeign, fmt.Sprintf("%.80q, which is by none of the %d keys over these bytes", h.Name, len(keys))
		case strings.HasPrefix(h.Name, signSHA1) && r == keystead.ReasonPackageUnsigned:
			r, got = keystead.ReasonDigestWeak, fmt.Sprintf("%.80q, which is over SHA-1", h.Name)
		}
	}
	return "", r, got
}

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}
