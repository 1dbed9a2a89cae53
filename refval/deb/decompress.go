package deb

import (
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/pierrec/lz4/v4"

	"github.com/keystead/keystead/internal/bounded"
)

// maxWindow bounds the history that a decompressor may keep: what xz -9 and
// zstd --ultra need, in bytes.
const maxWindow = 128 << 20

// decompressor returns a reader of what is packed, by the file's suffix. Close it.
func decompressor(suffix string, r io.Reader) (io.ReadCloser, error) {
	switch suffix {
	case "":
		return io.NopCloser(r), nil
	case ".xz":
		x, err := xz.NewReader(r, maxWindow)
		return io.NopCloser(x), err
	case ".gz":
		return gzip.NewReader(r)
	case ".bz2":
		return io.NopCloser(bzip2.NewReader(r)), nil
	case ".lz4":
		return io.NopCloser(lz4.NewReader(r)), nil
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("compression %q is not known", suffix)
}

// Decompress unpacks at most limit bytes; more are an error. The suffix is one of
// "", .xz, .gz, .bz2, .lz4 (as apt keeps its lists), .zst.
func Decompress(suffix string, packed []byte, limit int64) ([]byte, error) {
	r, err := decompressor(suffix, bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(&bounded.Reader{R: r, Left: limit})
}
