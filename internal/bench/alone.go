package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// unpackAlone unpacks a package's data and hashes each file, checks nothing and keeps
// nothing; it returns the number of bytes hashed.
func unpackAlone(raw []byte) int {
	data, kind := dataMember(raw)
	var r io.Reader = bytes.NewReader(data)
	switch kind {
	case "data.tar.xz":
		r = check(xz.NewReader(r, 0))
	case "data.tar.zst":
		r = check(zstd.NewReader(r))
	}
	archive := tar.NewReader(r)
	size := 0
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return size
		}
		if err != nil {
			panic(err)
		}
		if h.Typeflag == tar.TypeReg {
			sum := sha256.New()
			size += int(check(io.Copy(sum, archive)))
			sum.Sum(nil)
		}
	}
}

// dataMember finds the third member of the ar archive.
func dataMember(raw []byte) ([]byte, string) {
	rest := raw[len("!<arch>\n"):]
	for len(rest) >= 60 {
		name := string(bytes.TrimRight(rest[:16], " /"))
		size := 0
		for _, c := range bytes.TrimSpace(rest[48:58]) {
			size = size*10 + int(c-'0')
		}
		body := rest[60 : 60+size]
		if bytes.HasPrefix([]byte(name), []byte("data.tar")) {
			return body, name
		}
		rest = rest[60+size+size%2:]
	}
	panic("no data member")
}
