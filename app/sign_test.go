package app_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/specimen"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(b []byte) (*app.Program, error) { return app.Parse(bytes.NewReader(b), int64(len(b))) }

// signed returns what signing makes of a file's bytes.
func signed(t testing.TB, b []byte, s app.Signing) []byte {
	t.Helper()
	p, err := app.Sign(rand.Reader, bytes.NewReader(b), int64(len(b)), s)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(p.Signed(bytes.NewReader(b)).Reader())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func nobody(keystead.Digest) bool { return false }

// verify judges a file that does not run.
func verify(a *specimen.Authority, roots *app.Roots, b []byte) (app.Identity, error) {
	p, err := parse(b)
	if err != nil {
		return app.Identity{}, err
	}
	m, err := p.FileMeasured()
	if err != nil {
		return app.Identity{}, err
	}
	return p.Verify(m, roots, nobody, a.Now)
}

func wantReason(t *testing.T, what string, err error, want keystead.Reason) {
	t.Helper()
	var deny *keystead.DenyError
	if !errors.As(err, &deny) || len(deny.Findings) != 1 || deny.Findings[0].Reason != want {
		t.Errorf("%s: want %s, got %v", what, want, err)
	}
}

// TestSign signs every kind of program. Each runs as before, the tools of the system read
// it without a complaint, and without its signature it is what it was.
func TestSign(t *testing.T) {
	a := specimen.NewAuthority(t)
	for _, kind := range specimen.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			path := specimen.Build(t, kind)
			out := a.Sign(t, path, "billing/"+string(kind))
			before, after := read(t, path), read(t, out)
			id, err := verify(a, a.Roots(t, process.Measured), after)
			if err != nil || id.Name() != "billing/"+string(kind) || id.Program() != keystead.Sum(before) {
				t.Fatalf("%q %v, want the digest of the file before, %v: %v", id.Name(), id.Program(), keystead.Sum(before), err)
			}
			p, err := parse(after)
			if err != nil {
				t.Fatal(err)
			}
			again, err := io.ReadAll(p.Unsigned().Reader())
			if err != nil || !bytes.Equal(again, before) {
				t.Errorf("without its signature the file is another: %v", err)
			}
			runs(t, out)
			tool, err := exec.Command("readelf", "--wide", "--headers", "--notes", out).CombinedOutput()
			complains := strings.Contains(string(tool), "Warning") || strings.Contains(string(tool), "Error") && kind != specimen.CNoSections // it misses .dynamic there
			if err != nil || complains || !strings.Contains(string(tool), ".note.keystead") {
				t.Errorf("readelf: %v\n%s", err, tool)
			}
			_, err = app.Sign(rand.Reader, bytes.NewReader(after), int64(len(after)), a.Signing(t, "again"))
			wantReason(t, "a signed file", err, keystead.ReasonBinaryUnsuitable)
		})
	}
}

// runs starts a player and has it answer.
func runs(t *testing.T, path string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(path)
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	b, err := io.ReadAll(r)
	_ = cmd.Wait()
	if string(b) != "here\n" {
		t.Errorf("the signed program said %q: %v", b, err)
	}
}

func TestUnsuitable(t *testing.T) {
	a := specimen.NewAuthority(t)
	good := read(t, specimen.Build(t, specimen.MuslStatic))
	edit := func(f func(b []byte)) []byte { b := bytes.Clone(good); f(b); return b }
	phoff := binary.LittleEndian.Uint64(good[32:])
	for name, b := range map[string][]byte{
		"code that is writable":           read(t, specimen.Build(t, specimen.CWritable)),
		"a stack that is executable":      read(t, specimen.Build(t, specimen.CExecStack)),
		"a script":                        []byte("#!/bin/sh\n" + strings.Repeat("echo\n", 20)),
		"nothing":                         nil,
		"a header alone":                  good[:64],
		"cut":                             good[:len(good)/2],
		"32 bits":                         edit(func(b []byte) { b[4] = 1 }),
		"big-endian":                      edit(func(b []byte) { b[5] = 2 }),
		"an object file":                  edit(func(b []byte) { b[16] = 1 }),
		"program headers beyond the end":  edit(func(b []byte) { binary.LittleEndian.PutUint64(b[32:], 1<<63) }),
		"no program headers":              edit(func(b []byte) { clear(b[56:58]) }),
		"too many program headers":        edit(func(b []byte) { b[56], b[57] = 0xff, 0xff }),
		"a segment beyond the end":        edit(func(b []byte) { binary.LittleEndian.PutUint64(b[phoff+32:], 1<<62) }),
		"sections beyond the end":         edit(func(b []byte) { binary.LittleEndian.PutUint64(b[40:], 1<<60) }),
		"names of sections in no section": edit(func(b []byte) { b[62], b[63] = 0xff, 0xff }),
	} {
		_, err := app.Sign(rand.Reader, bytes.NewReader(b), int64(len(b)), a.Signing(t, "x"))
		wantReason(t, name, err, keystead.ReasonBinaryUnsuitable)
	}
}

// TestAltered changes a signed file as who has the file would: each change is refused.
func TestAltered(t *testing.T) {
	a := specimen.NewAuthority(t)
	path := specimen.Build(t, specimen.CPIE)
	before, file := read(t, path), read(t, a.Sign(t, path, "billing"))
	roots := a.Roots(t, process.Peer)
	size := len(before)
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(file)) }
	p, err := parse(file)
	if err != nil {
		t.Fatal(err)
	}
	text := p.Image.Fixed[1]
	for name, tc := range map[string]struct {
		file []byte
		want keystead.Reason
	}{
		"not signed":              {before, keystead.ReasonAppUnsigned},
		"a byte behind":           {append(bytes.Clone(file), 0), keystead.ReasonAppUnsigned},
		"a byte of code":          {edit(func(b []byte) []byte { b[text.Offset] ^= 1; return b }), keystead.ReasonAppAltered},
		"a byte of data":          {edit(func(b []byte) []byte { b[bytes.LastIndex(b[:size], []byte("GCC:"))] ^= 1; return b }), keystead.ReasonAppAltered},
		"the entry point":         {edit(func(b []byte) []byte { b[24] ^= 1; return b }), keystead.ReasonAppAltered},
		"a byte of the names":     {edit(func(b []byte) []byte { b[bytes.LastIndex(b, []byte(".shstrtab"))] ^= 1; return b }), keystead.ReasonAppAltered},
		"the name in the note":    {edit(func(b []byte) []byte { b[bytes.Index(b[size:], []byte("billing"))+size] = 'k'; return b }), keystead.ReasonAppCertForeign},
		"a bit of the signature":  {edit(func(b []byte) []byte { b[bytes.Index(b, p.Note.Signature)+12] ^= 1; return b }), keystead.ReasonAppAltered},
		"a section hides another": {edit(func(b []byte) []byte { b[len(b)-128+16] ^= 1; return b }), keystead.ReasonAppAltered},
	} {
		_, err := verify(a, roots, tc.file)
		wantReason(t, name, err, tc.want)
	}
	m, err := p.FileMeasured()
	if err != nil {
		t.Fatal(err)
	}
	other, err := parse(signed(t, append(bytes.Clone(before), 0), a.Signing(t, "billing")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Note.Verify(m, roots, nobody, a.Now)
	wantReason(t, "another file's note", err, keystead.ReasonAppAltered)
	twin := *p.Note
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(twin.Signature, &rs); err != nil {
		t.Fatal(err)
	}
	rs.S.Sub(elliptic.P256().Params().N, rs.S)
	if twin.Signature, err = asn1.Marshal(rs); err != nil {
		t.Fatal(err)
	}
	_, err = twin.Verify(m, roots, nobody, a.Now)
	wantReason(t, "the signature's twin (r, n-s), which verifies as well", err, keystead.ReasonAppAltered)
	m.Text[0] ^= 1
	_, err = p.Verify(m, roots, nobody, a.Now)
	wantReason(t, "other memory than the file's", err, keystead.ReasonTextAltered)
}
