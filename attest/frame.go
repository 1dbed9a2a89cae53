package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keystead/keystead"
)

// version is that of frames, of the protocol's name in ALPN, of labels and of the
// binding. It only ever grows:
//
//	1  hello, challenge, evidence, verdict
const version = 1

const format = "attest-frame"

// headerSize is the bytes before a frame's payload: version, kind, length.
const headerSize = 1 + 1 + 4

// kind is what a frame is.
type kind uint8

const (
	kindHello kind = iota + 1
	kindChallenge
	kindEvidence
	kindVerdict
)

func (k kind) String() string {
	switch k {
	case kindHello:
		return "hello"
	case kindChallenge:
		return "challenge"
	case kindEvidence:
		return "evidence"
	case kindVerdict:
		return "verdict"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Bounds of payloads, in bytes. That of evidence is the caller's.
const (
	maxHello     = 64 << 10
	maxChallenge = 4 << 10
	maxVerdict   = 64 << 10
	maxAnswer    = 64 // the secret of a credential in an evidence frame
)

// limit returns how large a payload may be.
func (k kind) limit(maxBundle int) int {
	switch k {
	case kindHello:
		return maxHello
	case kindChallenge:
		return maxChallenge
	case kindEvidence:
		return 2 + maxAnswer + maxBundle
	}
	return maxVerdict
}

// newFrame makes a frame around what fill appends.
func newFrame(k kind, fill func([]byte) []byte) []byte {
	b := fill([]byte{version, byte(k), 0, 0, 0, 0})
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)-headerSize))
	return b
}

// readFrame reads one frame and not a byte more. It fails with a
// *keystead.FormatError unless the frame is of that kind, or a verdict, and within
// its bound, or with what room says of a frame that is announced. Memory is taken as bytes
// arrive.
func readFrame(r io.Reader, want kind, maxBundle int, room func(kind, int) error) (kind, []byte, error) {
	var h [headerSize]byte
	if n, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, ended(err, 0, want.String()+" header", n, headerSize)
	}
	k, n := kind(h[1]), int64(binary.BigEndian.Uint32(h[2:]))
	switch {
	case h[0] != version:
		return 0, nil, malformed(0, "version", "is %d, want %d: %q is no frame of attestation", h[0], version, h[:])
	case k != want && k != kindVerdict:
		return 0, nil, malformed(1, "kind", "is %v, want %v", k, want)
	case n > int64(k.limit(maxBundle)):
		return 0, nil, malformed(2, "length", "is %d, at most %d are accepted of %v", n, k.limit(maxBundle), k)
	}
	if err := room(k, int(n)); err != nil {
		return 0, nil, err
	}
	payload, err := io.ReadAll(io.LimitReader(r, n))
	if err == nil && int64(len(payload)) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, nil, ended(err, headerSize, k.String(), len(payload), int(n))
	}
	return k, payload, nil
}

// ended tells a stream that ends within a frame from one that ends between two.
func ended(err error, at int64, what string, got, want int) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed(at, what, "ends after %d of %d bytes", got, want)
	}
	return fmt.Errorf("attest: reading %s: %w", what, err)
}

func malformed(at int64, field, problem string, args ...any) error {
	return &keystead.FormatError{Format: format, Offset: at, Field: field, Problem: fmt.Sprintf(problem, args...)}
}
