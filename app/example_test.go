package app_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
)

// A root, a sub-certificate for one application, a signed program, and who it is to a
// domain whose terms name the root. The program is the test's own binary.
func Example() {
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	now := time.Now()
	year := app.Validity{From: now.Add(-time.Hour).Truncate(time.Second), Until: now.AddDate(1, 0, 0).Truncate(time.Second)}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	root, err := app.NewRoot(rand.Reader, rootKey, "example root", year)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	certificate, err := app.Issue(rand.Reader, root, rootKey, "billing/web", key.Public(), year)
	must(err)

	program, err := os.ReadFile("/proc/self/exe")
	must(err)
	patch, err := app.Sign(rand.Reader, bytes.NewReader(program), int64(len(program)), app.Signing{Name: "billing/web", Certificate: certificate, Key: key})
	must(err)
	signed, err := io.ReadAll(patch.Signed(bytes.NewReader(program)).Reader())
	must(err)

	object, err := app.FormatRoots([]app.Root{{Prefix: "billing", Least: process.Measured, Hosts: []string{"web-1"}, Users: []app.Users{{First: 100, Last: 200}}, Certificate: root}})
	must(err)
	roots, err := app.ParseRoots(object)
	must(err)
	p, err := app.Parse(bytes.NewReader(signed), int64(len(signed)))
	must(err)
	measured, err := p.FileMeasured() // of a process: collect/process
	must(err)
	id, err := p.Verify(measured, roots, func(keystead.Digest) bool { return false }, now)
	must(err)
	fmt.Println(id.Name(), id.Program() == keystead.Sum(program))
	fmt.Println(id.Admits(process.Peer, "web-1", 150))
	// Output:
	// billing/web true
	// denied: level-low: application: want measured, got peer
}
