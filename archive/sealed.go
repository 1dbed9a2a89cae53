package archive

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// KeySize is the number of bytes of a record's key.
const KeySize = 32

// labelVersion opens a label; it only ever grows:
//
//	1  as below
const labelVersion = 1

// maxWrapped bounds a wrapped key, in bytes.
const maxWrapped = 256

// Label is kept beside a sealed record, in a file of its own: what the node has to know
// without reading the record, and the record's key, wrapped. Without the label the
// record is lost.
type Label struct {
	Host    string
	Verdict keystead.Digest
	Time    uint64          // of judgement, Unix milliseconds of the domain clock: retention counts from it
	Size    uint64          // of the sealed record, bytes
	Sealed  keystead.Digest // of the sealed record
	Epoch   uint64          // of the domain's secrets, under whose secret the key is wrapped
	Wrapped []byte
}

// About is what the wrapped key is bound to: all else that the label says, but the epoch.
func (l *Label) About() []byte {
	b := append(cursor.AppendSized16([]byte{labelVersion}, l.Host), l.Verdict[:]...)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, l.Time), l.Size)
	return append(b, l.Sealed[:]...)
}

// Bytes returns the label's one encoding.
func (l *Label) Bytes() []byte {
	return cursor.AppendSized16(binary.BigEndian.AppendUint64(l.About(), l.Epoch), l.Wrapped)
}

// ParseLabel reads a label. It fails with a *keystead.FormatError.
func ParseLabel(b []byte) (Label, error) {
	c := cursor.New("archive label", binary.BigEndian, b)
	version(c, labelVersion)
	l := Label{Host: string(c.Sized16(maxName, "host")), Verdict: digest(c, "verdict"), Time: c.U64("time"), Size: c.U64("size"), Sealed: digest(c, "sealed"),
		Epoch: c.U64("epoch"), Wrapped: append([]byte(nil), c.Sized16(maxWrapped, "wrapped key")...)}
	c.End()
	if c.Err() != nil {
		return Label{}, c.Err()
	}
	return l, nil
}

// Seal compresses a record and encrypts it under a key that was drawn for it alone
// (AES-256-GCM; one nonce is enough for one plaintext). It returns the sealed record with
// its label, whose key is still to be wrapped.
func Seal(domain keystead.Digest, r *Record, key []byte) (sealed []byte, l Label, err error) {
	box, err := newBox(key)
	if err != nil {
		return nil, l, err
	}
	sealed = box.Seal(nil, make([]byte, box.NonceSize()), encoder().EncodeAll(r.Bytes(), nil), bound(domain, r.Verdict))
	return sealed, Label{Host: r.Host, Verdict: r.Verdict, Time: r.Time, Size: uint64(len(sealed)), Sealed: keystead.Sum(sealed)}, nil
}

// Open decrypts what Seal made, and holds it to its label. Bytes that were not sealed
// so are archive-altered.
func Open(domain keystead.Digest, l *Label, sealed, key []byte) (Record, error) {
	where := "archived record " + l.Verdict.String()
	if uint64(len(sealed)) != l.Size {
		return Record{}, deny(keystead.ReasonArchiveAltered, where, fmt.Sprintf("%d bytes", l.Size), bytesLong(len(sealed)))
	}
	if got := keystead.Sum(sealed); got != l.Sealed {
		return Record{}, deny(keystead.ReasonArchiveAltered, where, l.Sealed.String(), got.String())
	}
	box, err := newBox(key)
	if err != nil {
		return Record{}, err
	}
	plain, err := box.Open(nil, make([]byte, box.NonceSize()), sealed, bound(domain, l.Verdict))
	if err != nil {
		return Record{}, deny(keystead.ReasonArchiveAltered, where, "bytes that its key opens, in this domain and under this name", "others")
	}
	raw, err := decoder().DecodeAll(plain, nil)
	if err != nil {
		return Record{}, &keystead.FormatError{Format: "archive record", Field: "compression", Problem: err.Error()}
	}
	r, err := ParseRecord(raw)
	if err == nil && (r.Verdict != l.Verdict || r.Host != l.Host || r.Time != l.Time) {
		err = deny(keystead.ReasonArchiveAltered, where, "what its label says", fmt.Sprintf("a record of host %s, verdict %v", r.Host, r.Verdict))
	}
	if err != nil {
		return Record{}, err
	}
	return r, nil
}

// encoder and decoder are made once; both are safe for concurrent use. What is
// decompressed is bounded.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2)) // these options are good
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, _ := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxRecord), zstd.WithDecoderConcurrency(2))
		return d
	})
)

func newBox(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("archive: a record's key has %d bytes, not %d", KeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// bound is what a sealed record is bound to.
func bound(domain, verdict keystead.Digest) []byte {
	return append(append([]byte("keystead archive record/1\n"), domain[:]...), verdict[:]...)
}
