// Package specimen builds real programs for tests: of Go and of C, static, dynamic and
// position-independent, stripped and without sections. Each is a player: it connects to
// a Unix socket and obeys, so that a test can have it attack.
package specimen

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
)

//go:embed player.c.txt
var playerC string

//go:embed asker.c.txt
var askerC string

//go:embed starter.c.txt
var starterC string

//go:embed player.go.txt
var playerGo string

// A Kind is how a program is built.
type Kind string

// The kinds.
const (
	Go          Kind = "go"            // static, by Go's linker
	GoPIE       Kind = "go-pie"        // position-independent, with a loader and no libraries
	C           Kind = "c"             // dynamic, at a fixed address
	CPIE        Kind = "c-pie"         // dynamic, position-independent
	CStripped   Kind = "c-stripped"    // the same, without symbols
	CNoSections Kind = "c-sectionless" // the same, without a table of sections
	MuslStatic  Kind = "musl-static"   // static, musl
	Musl        Kind = "musl"          // dynamic, musl
	CLarge      Kind = "c-large"       // static, with 6 MiB of further code
	CWritable   Kind = "c-writable"    // code that is writable (-N): can not be signed
	CExecStack  Kind = "c-execstack"   // with an executable stack: can not be signed
	Starter     Kind = "starter"       // no player: starts its second argument under a filter, and answers socket() for it
	Asker       Kind = "asker"         // no player: asks an agent; dynamic, position-independent
	AskerStatic Kind = "asker-static"  // the same, static
	AskerLarge  Kind = "asker-large"   // the same, static, with 6 MiB of further code
	Library     Kind = "library"       // a shared library, libspecimen.so, that does nothing
)

// Kinds are those that can be signed and run.
func Kinds() []Kind {
	return []Kind{Go, GoPIE, C, CPIE, CStripped, CNoSections, MuslStatic, Musl}
}

// Build builds a program into a directory of its own, and returns its path.
func Build(t testing.TB, k Kind) string {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "player")
	source, text := filepath.Join(dir, "player.c"), playerC
	var args []string
	switch k {
	case Go, GoPIE:
		source, text = filepath.Join(dir, "main.go"), playerGo
		args = []string{"go", "build", "-o", out, source}
		if k == GoPIE {
			args = []string{"go", "build", "-buildmode=pie", "-o", out, source}
		}
	case C:
		args = []string{"gcc", "-O1", "-no-pie"}
	case CPIE, CNoSections:
		args = []string{"gcc", "-O1", "-pie", "-fPIE"}
	case CStripped:
		args = []string{"gcc", "-O1", "-pie", "-fPIE", "-s"}
	case MuslStatic:
		args = []string{"musl-gcc", "-O1", "-static"}
	case Musl:
		args = []string{"musl-gcc", "-O1"}
	case CLarge:
		args = []string{"gcc", "-O1", "-static", "-DLARGE"}
	case CWritable:
		args = []string{"musl-gcc", "-O1", "-static", "-Wl,-N"}
	case CExecStack:
		args = []string{"gcc", "-O1", "-z", "execstack"}
	case Starter:
		text = starterC
		args = []string{"gcc", "-O1"}
	case Asker:
		text, args = askerC, []string{"gcc", "-O1", "-pie", "-fPIE"}
	case AskerStatic:
		text, args = askerC, []string{"gcc", "-O1", "-static"}
	case AskerLarge:
		text, args = askerC, []string{"gcc", "-O1", "-static", "-DLARGE"}
	case Library:
		out = filepath.Join(dir, "libspecimen.so")
		source, text = filepath.Join(dir, "library.c"), "int specimen(void) { return 7; }\n"
		args = []string{"gcc", "-O1", "-shared", "-fPIC", "-Wl,-soname,libspecimen.so"}
	}
	if args[0] != "go" {
		args = append(args, "-o", out, source)
	}
	if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, b)
	}
	if k == CNoSections {
		dropSections(t, out)
	}
	return out
}

// dropSections cuts the table of sections off, as sstrip does.
func dropSections(t testing.TB, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = b[:binary.LittleEndian.Uint64(b[40:])]
	clear(b[40:48])
	clear(b[58:64])
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// An Authority is a root for applications, and what it issued.
type Authority struct {
	Root    []byte
	RootKey *ecdsa.PrivateKey
	Now     time.Time
}

// NewAuthority makes a root that counts for an hour.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{RootKey: NewKey(t), Now: time.Now()}
	var err error
	if a.Root, err = app.NewRoot(rand.Reader, a.RootKey, "specimen root", a.Validity()); err != nil {
		t.Fatal(err)
	}
	return a
}

// Validity is an hour around the authority's birth.
func (a *Authority) Validity() app.Validity {
	return app.Validity{From: a.Now.Add(-30 * time.Minute).Truncate(time.Second), Until: a.Now.Add(30 * time.Minute).Truncate(time.Second)}
}

// NewKey makes a key of ECDSA on P-256.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Roots are the authority's for every name, host and user, at a level at least.
func (a *Authority) Roots(t testing.TB, least process.Level) *app.Roots {
	t.Helper()
	text, err := app.FormatRoots([]app.Root{{Prefix: "*", Least: least, Hosts: []string{"*"}, Users: []app.Users{app.EveryUser}, Certificate: a.Root}})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := app.ParseRoots(text)
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// Signing returns a new key and sub-certificate of a name.
func (a *Authority) Signing(t testing.TB, name string, libraries ...string) app.Signing {
	t.Helper()
	k := NewKey(t)
	der, err := app.Issue(rand.Reader, a.Root, a.RootKey, name, k.Public(), a.Validity())
	if err != nil {
		t.Fatal(err)
	}
	return app.Signing{Name: name, Certificate: der, Key: k, Libraries: libraries}
}

// Sign signs the file at path, beside it, and returns the signed file's path.
func (a *Authority) Sign(t testing.TB, path, name string, libraries ...string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	image, err := app.ParseImage(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	closure, err := app.Closure(image, nil, Find)
	if err != nil {
		t.Fatal(err)
	}
	closure = append(closure, libraries...)
	patch, err := app.Sign(rand.Reader, f, st.Size(), a.Signing(t, name, closure...))
	if err != nil {
		t.Fatal(err)
	}
	out := path + ".signed"
	to, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(to, patch.Signed(f).Reader())
	}
	if err = errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// Find reads a library of this machine.
func Find(name string) (*app.Image, error) {
	if name == "libc.so" { // of musl, which is its loader, too
		if loader, err := filepath.Glob("/lib/ld-musl-*.so.1"); err == nil && len(loader) == 1 {
			name = loader[0]
		}
	}
	if !strings.HasPrefix(name, "/") {
		for _, dir := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib", "/lib/aarch64-linux-gnu"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				name = filepath.Join(dir, name)
				break
			}
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return app.ParseImage(f, st.Size())
}

// Run starts a program; it ends with the test.
func Run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", cmd.Path, err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = cmd.Wait(); cancel() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ctx.Done() })
}
