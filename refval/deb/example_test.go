package deb_test

import (
	"archive/tar"
	"fmt"
	"time"

	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/refval/deb"
)

// The four links of the chain, over a repository as a mirror would give it.
func Example() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	vendor := debrepo.NewSigner("vendor", now, 0)
	hello := debrepo.Package{Name: "hello", Version: "1.0", Architecture: "amd64",
		Deb: debrepo.Deb(".gz", tar.Header{Name: "./usr/bin/hello", Typeflag: tar.TypeReg, Mode: 0o755, Uname: "the program"})}
	mirror := debrepo.Repository{Suite: "stable", Date: now, Packages: []debrepo.Package{hello}, Signers: []*debrepo.Signer{vendor}}.Files()

	keyring, err := deb.ParseKeyring(vendor.Public())
	if err != nil {
		fmt.Println(err)
	}
	release, err := deb.VerifyRelease(mirror["dists/stable/InRelease"], keyring, now)
	if err != nil {
		fmt.Println(err)
	}
	index, err := release.Index("main/binary-amd64/Packages", mirror["dists/stable/main/binary-amd64/Packages"])
	if err != nil {
		fmt.Println(err)
	}
	for p := range index.Packages() {
		files, err := deb.Unpack(mirror[p.Filename], p, deb.DefaultLimits)
		fmt.Println(p.Name, files[0].Path, files[0].Digest, err)
	}
	_, err = release.Index("main/binary-amd64/Packages", []byte("Package: other\n"))
	fmt.Println(err)
	// Output:
	// hello=1.0:amd64 /usr/bin/hello sha256:50fda23bf0a5115d4f893dc10d122c10a4705f47688f5620e80611c092d4053e <nil>
	// denied: index-mismatch: stable main/binary-amd64/Packages: want 249 bytes, got 15 bytes
}
