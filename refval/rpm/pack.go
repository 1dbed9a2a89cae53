package rpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"

	"github.com/keystead/keystead"
)

// Bounds of a packed list of headers, once unpacked: they hold for a desktop of 3,000
// packages. A list is unpacked one header after the other.
const (
	MaxUnpacked = 256 << 20 // bytes
	maxHeaders  = 1 << 16
	packWindow  = 8 << 20 // bytes of history, which the unpacker keeps
)

// Pack writes headers as bundles carry them: each after its length (32 bits,
// big-endian), the whole as one frame of Zstandard. It reads the database once and
// fails as Headers does.
func Pack(headers iter.Seq2[[]byte, error]) ([]byte, error) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packWindow))
	if err != nil {
		return nil, err
	}
	n, total := 0, 0
	for blob, err := range headers {
		if err != nil {
			return nil, err
		}
		if n, total = n+1, total+len(blob); n > maxHeaders || total > MaxUnpacked {
			return nil, databaseError("rpmdb", 0, "headers", "are %d of %d bytes and more, at most %d of %d are accepted", n, total, maxHeaders, MaxUnpacked)
		}
		if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(blob)))); err != nil {
			return nil, err
		}
		if _, err := w.Write(blob); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Unpack yields the headers of a packed list, each with memory of its own, and stops
// after an error, a *keystead.FormatError.
func Unpack(packed []byte) iter.Seq2[*Header, error] {
	return func(yield func(*Header, error) bool) {
		fail := func(at int, err error) {
			var format *keystead.FormatError
			if !errors.As(err, &format) {
				err = &keystead.FormatError{Format: "rpm-headers", Offset: int64(at), Field: "header", Problem: err.Error()}
			}
			yield(nil, err)
		}
		r, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(packWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			fail(0, err)
			return
		}
		defer r.Close()
		at := 0
		for n := 0; ; n++ {
			var size [4]byte
			switch _, err := io.ReadFull(r, size[:]); {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				fail(at, err)
				return
			}
			length := int(binary.BigEndian.Uint32(size[:]))
			if n == maxHeaders || length > MaxHeader || at+length > MaxUnpacked {
				fail(at, fmt.Errorf("header %d of %d bytes: at most %d headers of %d bytes each, %d in all, are accepted", n, length, maxHeaders, MaxHeader, MaxUnpacked))
				return
			}
			blob, err := readExactly(r, length)
			if err != nil {
				fail(at, err)
				return
			}
			at += len(size) + length
			h, err := ParseHeader(blob)
			if err != nil {
				fail(at, err)
				return
			}
			if !yield(h, nil) {
				return
			}
		}
	}
}

// readExactly reads n bytes without making room for what may not come.
func readExactly(r io.Reader, n int) ([]byte, error) {
	var b bytes.Buffer
	k, err := io.CopyN(&b, r, int64(n))
	if err != nil {
		return nil, fmt.Errorf("is cut off after %d of %d bytes: %w", k, n, err)
	}
	return b.Bytes(), nil
}
