package fetch

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/mikelolasagasti/xz"

	"github.com/keystead/keystead/refval/deb"
)

// BenchmarkUnpack compares, over real packages with their files:
//
//	chain     what Build does with a .deb: check its size and digest, unpack, hash
//	alone     unpacking and hashing by the same decoder, checking nothing
//	dpkg-deb  dpkg-deb -x and sha256sum, with the C decoder
func BenchmarkUnpack(b *testing.B) {
	debs := realDebs(b, "dash", "grep", "gzip", "hostname", "libc6", "mount", "perl-base", "tar")
	files := 0
	for want, raw := range debs {
		some, err := deb.Unpack(raw, want, deb.DefaultLimits)
		if err != nil {
			b.Fatal(err)
		}
		files += len(some)
	}
	run := func(name string, one func(b *testing.B, raw []byte, want deb.Package)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				for want, raw := range debs {
					one(b, raw, want)
				}
			}
			b.ReportMetric(float64(files*b.N)/b.Elapsed().Seconds(), "files/s")
		})
	}
	run("chain", func(b *testing.B, raw []byte, want deb.Package) {
		if _, err := deb.Unpack(raw, want, deb.DefaultLimits); err != nil {
			b.Fatal(err)
		}
	})
	run("alone", func(b *testing.B, raw []byte, _ deb.Package) { hashAlone(b, raw) })
	dir := b.TempDir()
	run("dpkg-deb", func(b *testing.B, raw []byte, _ deb.Package) {
		name := filepath.Join(dir, "x.deb")
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			b.Fatal(err)
		}
		script := `rm -rf x && dpkg-deb -x x.deb x && find x -type f -print0 | xargs -0 sha256sum >sums`
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = dir
		if msg, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, msg)
		}
	})
}

func hashAlone(b *testing.B, raw []byte) {
	x, err := xz.NewReader(bytes.NewReader(raw[bytes.LastIndex(raw, []byte("\xfd7zXZ\x00")):]), 0)
	if err != nil {
		b.Fatal(err)
	}
	archive := tar.NewReader(x)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			b.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			sum := sha256.New()
			if _, err := io.Copy(sum, archive); err != nil {
				b.Fatal(err)
			}
			sum.Sum(nil)
		}
	}
}

// realDebs downloads this machine's own packages of the names, as far as an index offers them.
func realDebs(b *testing.B, names ...string) map[deb.Package][]byte {
	c, err := openCache(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	f := &fetcher{Options: Options{Root: "/", Packages: installed(b, names...), Sources: debianSources(b), At: time.Now(), Workers: 2}, cache: c, net: newTransport()}
	opened, skipped := f.openAll(context.Background())
	if len(skipped) > 0 {
		b.Fatal(skipped)
	}
	debs := map[deb.Package][]byte{}
	for _, o := range offers(opened) {
		if debs[o.Package], err = f.download(context.Background(), o.from[0].source.address(o.Filename), o.Size); err != nil {
			b.Fatal(err)
		}
	}
	return debs
}
