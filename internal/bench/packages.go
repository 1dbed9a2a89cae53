package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/refval/deb"
)

// packageDir keeps the downloaded packages between runs.
const packageDir = "build/bench-packages"

// packageRows computes the digests of all files of the test bed's guest, and beside it
// does no more than unpack and hash them.
func packageRows() ([]row, error) {
	debs, err := guestPackages()
	if err != nil {
		return nil, err
	}
	files, size := 0, 0
	var chain, alone time.Duration
	for _, raw := range debs {
		want := deb.Package{Size: int64(len(raw)), Digest: keystead.Sum(raw)}
		chain += timed(func() { files += len(check(deb.Unpack(raw, want, deb.DefaultLimits))) })
		alone += timed(func() { size += unpackAlone(raw) })
	}
	dpkg, err := dpkgDeb()
	if err != nil {
		return nil, err
	}
	return []row{{fmt.Sprintf("reference values: %d packages of the guest, one core", len(debs)),
		fmt.Sprintf("%.0f files/s (%d files, %.0f MB/s)", float64(files)/chain.Seconds(), files, float64(size)/1e6/chain.Seconds()), "",
		fmt.Sprintf("unpack + hash alone: ratio %.2f; dpkg-deb + sha256sum: %.0f files/s", chain.Seconds()/alone.Seconds(), float64(files)/dpkg.Seconds()), true}}, nil
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// guestPackages downloads the current versions of the packages that the recorded
// guest had, by apt, which verifies them.
func guestPackages() ([][]byte, error) {
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		return nil, err
	}
	names, err := deb.ParseStatus(rec.Status)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(packageDir, 0o755); err != nil {
		return nil, err
	}
	if have, _ := filepath.Glob(packageDir + "/*.deb"); len(have) < len(names)*9/10 {
		for _, n := range names {
			cmd := exec.Command("apt-get", "download", "-qq", n.Package)
			cmd.Dir = packageDir
			if msg, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "left out %s: %s\n", n.Package, bytes.TrimSpace(msg)) // superseded kernels leave the index
			}
		}
	}
	paths, err := filepath.Glob(packageDir + "/*.deb")
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no packages in %s: %v", packageDir, err)
	}
	var out [][]byte
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// dpkgDeb times the C tools over the same packages.
func dpkgDeb() (time.Duration, error) {
	dir, err := os.MkdirTemp("", "keystead-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	from, err := filepath.Abs(packageDir)
	if err != nil {
		return 0, err
	}
	script := `for d in "$0"/*.deb; do dpkg-deb --fsys-tarfile "$d" | tar -x -C "$1"; find "$1" -type f -print0 | xargs -0 -r sha256sum >/dev/null; rm -rf "$1"/*; done`
	cmd := exec.Command("sh", "-ec", script, from, dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	took := timed(func() { err = cmd.Run() })
	if err != nil {
		return 0, fmt.Errorf("dpkg-deb: %w: %s", err, stderr.String())
	}
	return took, nil
}
