package deb

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/keystead/keystead"
)

// maxKeyring bounds a keyring file, in bytes.
const maxKeyring = 4 << 20

// Keyring holds the OpenPGP certificates of those who may sign a repository. The
// zero value accepts nobody.
type Keyring struct{ entities openpgp.EntityList }

// ParseKeyring reads certificates: binary, or armoured, of which a file may hold several.
func ParseKeyring(raw []byte) (Keyring, error) {
	fail := func(err error) (Keyring, error) {
		return Keyring{}, &keystead.FormatError{Format: "openpgp-keyring", Field: "keys", Problem: err.Error()}
	}
	if len(raw) > maxKeyring {
		return fail(fmt.Errorf("is %d bytes long, at most %d are accepted", len(raw), maxKeyring))
	}
	const begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	if !bytes.Contains(raw, []byte(begin)) {
		list, err := openpgp.ReadKeyRing(bytes.NewReader(raw))
		if err == nil && len(list) == 0 {
			err = errors.New("no certificate")
		}
		if err != nil {
			return fail(err)
		}
		return Keyring{list}, nil
	}
	var k Keyring
	for rest := raw; ; {
		at := bytes.Index(rest, []byte(begin))
		if at < 0 {
			break
		}
		block, err := armor.Decode(bytes.NewReader(rest[at:]))
		if err != nil {
			return fail(err)
		}
		list, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return fail(err)
		}
		k.entities = append(k.entities, list...)
		rest = rest[at+len(begin):]
	}
	if len(k.entities) == 0 {
		return fail(errors.New("no certificate"))
	}
	return k, nil
}

// Add returns a keyring of both keyrings' certificates.
func (k Keyring) Add(more Keyring) Keyring {
	return Keyring{slices.Concat(k.entities, more.entities)}
}

// Only returns the keyring restricted to the certificates that hold a key of one of
// the fingerprints (hex, any case), as apt's Signed-By does.
func (k Keyring) Only(fingerprints ...string) Keyring {
	var out Keyring
	for _, e := range k.entities {
		held := []string{fingerprint(e.PrimaryKey)}
		for _, s := range e.Subkeys {
			held = append(held, fingerprint(s.PublicKey))
		}
		if slices.ContainsFunc(fingerprints, func(f string) bool { return slices.Contains(held, strings.ToUpper(f)) }) {
			out.entities = append(out.entities, e)
		}
	}
	return out
}

// Bytes returns the certificates, binary, as ParseKeyring reads them.
func (k Keyring) Bytes() ([]byte, error) {
	var b bytes.Buffer
	for _, e := range k.entities {
		if err := e.Serialize(&b); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// Len returns the number of certificates.
func (k Keyring) Len() int { return len(k.entities) }

func fingerprint(p *packet.PublicKey) string {
	return strings.ToUpper(fmt.Sprintf("%x", p.Fingerprint))
}

// maxSignatures bounds the signatures of one InRelease.
const maxSignatures = 32

// signature is one that verifies.
type signature struct {
	signer string // fingerprint of the primary key
	made   time.Time
}

// verify returns the signatures over the text by keys that were valid when the
// signature was made and are valid at the time, and for each other why it is not.
func (k Keyring) verify(signed []byte, signatures io.Reader, at time.Time) (good []signature, bad []string, err error) {
	packets := packet.NewReader(signatures)
	for n := 0; ; n++ {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return good, bad, nil
		}
		if err != nil {
			return nil, nil, err
		}
		sig, ok := p.(*packet.Signature)
		if !ok || n == maxSignatures {
			return nil, nil, fmt.Errorf("want at most %d signatures and nothing else", maxSignatures)
		}
		signer, err := k.verifyOne(signed, sig, at)
		if err != nil {
			bad = append(bad, err.Error())
		} else {
			good = append(good, signature{signer, sig.CreationTime})
		}
	}
}

func (k Keyring) verifyOne(signed []byte, sig *packet.Signature, at time.Time) (signer string, err error) {
	if sig.IssuerKeyId == nil {
		return "", errors.New("a signature that names no key")
	}
	id := fmt.Sprintf("key %016X", *sig.IssuerKeyId)
	switch {
	case !acceptedHash(sig.Hash):
		return "", fmt.Errorf("%s: signed over %v", id, sig.Hash)
	case len(k.entities.KeysById(*sig.IssuerKeyId)) == 0:
		return "", fmt.Errorf("%s: is not in the keyring", id)
	}
	if sig.CreationTime.After(at) {
		at = sig.CreationTime // what comes from the future is judged as such by VerifyRelease
	}
	var one bytes.Buffer
	if err := sig.Serialize(&one); err != nil {
		return "", fmt.Errorf("%s: %w", id, err)
	}
	config := &packet.Config{Time: func() time.Time { return at }}
	entity, err := openpgp.CheckDetachedSignature(k.entities, bytes.NewReader(signed), &one, config)
	if err != nil {
		return "", fmt.Errorf("%s: %w", id, err)
	}
	return fingerprint(entity.PrimaryKey), nil
}

func acceptedHash(h crypto.Hash) bool {
	return h == crypto.SHA256 || h == crypto.SHA384 || h == crypto.SHA512
}
