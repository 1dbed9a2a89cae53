package keyring

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"github.com/keystead/keystead"
)

// saltSize is how many random bytes make each wrapping of a record's key its own.
const saltSize = 32

// WrapRecord encrypts the key of a record that a node archives, of SecretSize bytes,
// under the newest epoch's secret that this node holds, and returns which epoch that is.
// What about says is bound to it. Without any secret it is secret-missing.
func (g *Ring) WrapRecord(st State, about, recordKey []byte, random io.Reader) (epoch uint64, wrapped []byte, err error) {
	if len(recordKey) != SecretSize {
		return 0, nil, fmt.Errorf("keyring: a record's key has %d bytes, not %d", SecretSize, len(recordKey))
	}
	salt := make([]byte, saltSize)
	if _, err := io.ReadFull(random, salt); err != nil {
		return 0, nil, fmt.Errorf("keyring: randomness for a record: %w", err)
	}
	now, err := Current(st)
	if err != nil {
		return 0, nil, err
	}
	for n := now.Number; n > 0; n-- { // between two epochs, the secret of now may not be here yet
		e, err := epochAt(st, strconv.FormatUint(n, 10))
		if err != nil {
			return 0, nil, err
		}
		if !g.holds(&e) {
			continue
		}
		under, err := g.epochSecret(st, n)
		if err != nil {
			return 0, nil, err
		}
		sealed, err := under.seal(recordInfo(g.domain, n, salt, about), recordKey)
		return n, append(salt, sealed...), err
	}
	return 0, nil, missing("key of an archived record")
}

// UnwrapRecord decrypts what WrapRecord made, for as long as this node holds the secret
// of that epoch or a newer one. What it was not made from is seal-unopened.
func (g *Ring) UnwrapRecord(st State, epoch uint64, about, wrapped []byte) ([]byte, error) {
	if len(wrapped) != saltSize+wrappedSize {
		return nil, deny(keystead.ReasonSealUnopened, "key of an archived record", fmt.Sprintf("%d bytes", saltSize+wrappedSize), fmt.Sprint(len(wrapped)))
	}
	under, err := g.epochSecret(st, epoch)
	if err != nil {
		return nil, err
	}
	return under.open(recordInfo(g.domain, epoch, wrapped[:saltSize], about), wrapped[saltSize:], "key of an archived record")
}

// recordInfo names a record's key: with the salt, the key that wraps it is for this one
// alone.
func recordInfo(domain keystead.Digest, epoch uint64, salt, about []byte) []byte {
	b := binary.BigEndian.AppendUint64(label("archive", domain), epoch)
	d := keystead.Sum(about)
	return append(append(b, salt...), d[:]...)
}
