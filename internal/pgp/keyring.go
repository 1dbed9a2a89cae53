package pgp

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/keystead/keystead"
)

// MaxKeyring bounds a keyring file, in bytes.
const MaxKeyring = 4 << 20

// Keyring holds the OpenPGP certificates of those who may sign. The zero value accepts
// nobody.
type Keyring struct{ entities openpgp.EntityList }

// ParseKeyring reads certificates: binary, or armoured, of which a file may hold several.
func ParseKeyring(raw []byte) (Keyring, error) {
	fail := func(err error) (Keyring, error) {
		return Keyring{}, &keystead.FormatError{Format: "openpgp-keyring", Field: "keys", Problem: err.Error()}
	}
	if len(raw) > MaxKeyring {
		return fail(fmt.Errorf("is %d bytes long, at most %d are accepted", len(raw), MaxKeyring))
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

// Fingerprints returns those of the certificates' primary keys, in upper-case hex, in order.
func (k Keyring) Fingerprints() (out []string) {
	for _, e := range k.entities {
		out = append(out, fingerprint(e.PrimaryKey))
	}
	slices.Sort(out)
	return out
}

func fingerprint(p *packet.PublicKey) string {
	return strings.ToUpper(fmt.Sprintf("%x", p.Fingerprint))
}
