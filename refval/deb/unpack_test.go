package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/authenticode"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/refval"
)

// offered is what an honest index says of the bytes.
func offered(raw []byte) Package {
	return Package{Name: Name{"test", "1", "amd64"}, Filename: "pool/test.deb", Size: int64(len(raw)), Digest: keystead.Sum(raw)}
}

// realDeb has dpkg-deb make a package, packed as -Z says.
func realDeb(t testing.TB, pack string, files map[string][]byte) []byte {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte, mode os.FileMode) {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("DEBIAN/control", []byte("Package: test\nVersion: 1\nArchitecture: amd64\nMaintainer: T <t@test.example>\nDescription: test\n"), 0o644)
	for name, content := range files {
		mode := os.FileMode(0o644)
		if strings.Contains(name, "bin/") || strings.HasPrefix(name, "DEBIAN/") {
			mode = 0o755
		}
		write(name, content, mode)
	}
	if err := errors.Join(os.Symlink("tool", filepath.Join(dir, "usr/bin/link")), os.Link(filepath.Join(dir, "usr/bin/tool"), filepath.Join(dir, "usr/bin/zhard"))); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "test.deb")
	if msg, err := exec.Command("dpkg-deb", "--root-owner-group", "-Z"+pack, "-b", dir, out).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, msg)
	}
	return mustRead(t, out)
}

func TestUnpackReal(t *testing.T) {
	long := "usr/share/" + strings.Repeat("a-long-directory-name/", 12) + "file"
	content := map[string][]byte{"usr/bin/tool": []byte("#!/bin/sh\n"), "usr/lib/plain.so.1": []byte("a library"), "usr/lib/elf": []byte("\x7fELF..."),
		"usr/share/doc/x": nil, long: bytes.Repeat([]byte("x"), 300<<10),
		"DEBIAN/preinst": []byte("#!/bin/sh\n# before\n"), "DEBIAN/postinst": []byte("#!/bin/sh\n# after\n"), "DEBIAN/templates": []byte("Template: test/none\n")}
	for _, pack := range []string{"xz", "gzip", "zstd", "none"} {
		raw := realDeb(t, pack, content)
		files, err := Unpack(raw, offered(raw), DefaultLimits)
		if err != nil {
			t.Errorf("%s: %v", pack, err)
			continue
		}
		var got []string
		for _, f := range files {
			got = append(got, fmt.Sprint(f.Path, " ", f.Digest, " ", f.Executable))
		}
		var want []string
		for name, c := range content {
			script, control := strings.CutPrefix(name, "DEBIAN/")
			switch {
			case script == "templates": // nobody executes it
				continue
			case control:
				name = "var/lib/dpkg/info/test." + script
			}
			want = append(want, fmt.Sprint("/", name, " ", keystead.Sum(c), " ", !strings.Contains(name, "share")))
		}
		want = append(want, fmt.Sprint("/usr/bin/zhard ", keystead.Sum(content["usr/bin/tool"]), " true"))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", pack, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestMaintainerScripts wants dpkg's scripts under the names that dpkg gives them, and
// a control.tar held to the same bounds as the files.
func TestMaintainerScripts(t *testing.T) {
	pack := func(control string, members ...tar.Header) []byte {
		members = append(members, regular("./control", control))
		return debrepo.Ar("debian-binary", []byte("2.0\n"), "control.tar.gz", debrepo.Pack(".gz", debrepo.Tar(members...)), "data.tar", debrepo.Tar())
	}
	scripts := []tar.Header{regular("./prerm", "a"), regular("postrm", "b"), regular("./config", "c"), regular("./md5sums", "d"), regular("./sub/postinst", "e"),
		{Name: "./postinst", Typeflag: tar.TypeSymlink, Linkname: "/tmp/x"}}
	for control, prefix := range map[string]string{"Package: test\n": "test", "Package: test\nMulti-Arch: same\n": "test:amd64", "Package: test\nMulti-Arch: foreign\n": "test"} {
		raw := pack(control, scripts...)
		files, err := Unpack(raw, offered(raw), DefaultLimits)
		var got []string
		for _, f := range files {
			got = append(got, fmt.Sprint(f.Path, " ", f.Digest, " ", f.Executable))
		}
		var want []string
		for _, s := range [][2]string{{"prerm", "a"}, {"postrm", "b"}, {"config", "c"}} {
			want = append(want, fmt.Sprint("/var/lib/dpkg/info/", prefix, ".", s[0], " ", keystead.Sum([]byte(s[1])), " true"))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q (%v), want %q", control, got, err, want)
		}
	}
	for what, raw := range map[string][]byte{
		"a bomb":              pack("Package: test\n", regular("./postinst", strings.Repeat("x", 2<<20))),
		"too many members":    pack("Package: test\n", slices.Repeat([]tar.Header{regular("./x", "")}, 101)...),
		"a control too long":  pack("Package: test\nDescription: " + strings.Repeat("x", maxControl)),
		"a control malformed": pack("no field\n"),
	} {
		_, err := Unpack(raw, offered(raw), Limits{Bytes: 1 << 20, Files: 100})
		if !errors.Is(err, keystead.ReasonPackageCorrupt) {
			t.Errorf("%s: got %v, want %s", what, err, keystead.ReasonPackageCorrupt)
		}
	}
}

// TestUnpackEFI: of an EFI program the digest by which firmware measures it, too.
func TestUnpackEFI(t *testing.T) {
	program := make([]byte, 1<<20) // a PE32+ header and no section: several reads long
	copy(program, "MZ")
	program[60] = 64
	copy(program[64:], "PE\x00\x00")
	program[64+24], program[64+25] = 0x0b, 0x02
	dos := append([]byte("MZ"), make([]byte, 1<<10)...)
	content := map[string][]byte{"usr/bin/tool": []byte("MZ"), "boot/vmlinuz-1": program, "usr/share/old.exe": dos, "boot/initrd.img-1": []byte("an initrd")}
	raw := realDeb(t, "xz", content)
	files, err := Unpack(raw, offered(raw), DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	want, err := authenticode.Digest(program)
	if err != nil || want == keystead.Sum(program) {
		t.Fatal(want, err)
	}
	efi := Select(files, refval.SelectEFI)
	if len(efi) != 1 || efi[0] != (refval.File{Path: "/boot/vmlinuz-1", Digest: want}) {
		t.Errorf("got EFI programs %v", efi)
	}
	_, long, err := authenticode.Digests(program)
	if err != nil {
		t.Fatal(err)
	}
	measured := map[refval.File]bool{}
	for _, f := range Select(files, refval.SelectBoot) {
		measured[f] = true
	}
	if len(measured) != 3 || !measured[efi[0]] || !measured[refval.File{Path: "/boot/vmlinuz-1", Digest: long.Name()}] ||
		!measured[refval.File{Path: "/boot/initrd.img-1", Digest: keystead.Sum384([]byte("an initrd")).Name()}] {
		t.Errorf("got for the boot %v", measured)
	}
	if all, run := Select(files, refval.SelectAll), Select(files, refval.SelectExecutable); len(all) != 5 || len(run) != 2 || slices.Contains(all, efi[0]) {
		t.Errorf("got all %v, executable %v", all, run)
	}
}

func regular(name, content string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Uname: content}
}

func TestUnpackRefuses(t *testing.T) {
	good := debrepo.Deb(".gz", regular("./usr/bin/x", "x"))
	if _, err := Unpack(good, offered(good), DefaultLimits); err != nil {
		t.Fatal(err)
	}
	altered := bytes.Clone(good)
	altered[len(altered)-9] ^= 1
	_, err := Unpack(altered, offered(good), DefaultLimits)
	wantReason(t, "altered", err, keystead.ReasonIndexMismatch, "sha256:")
	_, err = Unpack(append(bytes.Clone(good), 0), offered(good), DefaultLimits)
	wantReason(t, "longer", err, keystead.ReasonIndexMismatch, "bytes")
	lie := offered(good)
	lie.Size++
	_, err = Unpack(good, lie, DefaultLimits)
	wantReason(t, "index states another size", err, keystead.ReasonIndexMismatch, "bytes")

	tarball := debrepo.Tar(regular("./x", "x"))
	small := Limits{Bytes: 1 << 20, Files: 100}
	zeros := strings.Repeat("\x00", 4<<20)
	var many []tar.Header
	for i := range 101 {
		many = append(many, regular(fmt.Sprintf("./f%d", i), ""))
	}
	hugeAr := debrepo.Ar("debian-binary", []byte("2.0\n"))
	copy(hugeAr[8+48:], "9999999999")
	for name, tc := range map[string]struct {
		deb  []byte
		says string
	}{
		"altered, and the index with it": {altered, ""},
		"not an archive":                 {[]byte("PK\x03\x04"), "not an ar archive"},
		"empty":                          {nil, "not an ar archive"},
		"no members":                     {debrepo.Ar(), "no data.tar"},
		"format 3":                       {debrepo.Ar("debian-binary", []byte("3.0\n"), "control.tar", []byte{}, "data.tar", tarball), "format 2"},
		"no control":                     {debrepo.Ar("debian-binary", []byte("2.0\n"), "data.tar", tarball), "where control.tar belongs"},
		"something else before the data": {debrepo.Ar("debian-binary", []byte("2.0\n"), "control.tar", []byte{}, "evil", []byte{}, "data.tar", tarball), "where data.tar belongs"},
		"unknown compression":            {debrepo.Ar("debian-binary", []byte("2.0\n"), "control.tar", []byte{}, "data.tar.rot13", tarball), "not known"},
		"member larger than the archive": {hugeAr, "are left"},
		"header cut off":                 {good[:30], "cut off"},
		"traversal":                      {debrepo.Deb("", regular("./../../etc/passwd", "x")), "below the root"},
		"traversal within":               {debrepo.Deb("", regular("./usr/../etc/passwd", "x")), "below the root"},
		"path too long":                  {debrepo.Deb("", regular("./"+strings.Repeat("d/", 3000)+"x", "x")), "below the root"},
		"hard link out of the package":   {debrepo.Deb("", tar.Header{Name: "./x", Typeflag: tar.TypeLink, Linkname: "./etc/shadow"}), "not in the package"},
		"too many files":                 {debrepo.Deb("", many...), "more than 100"},
		"gzip bomb":                      {debrepo.Deb(".gz", regular("./x", zeros)), "bound"},
		"zstd bomb":                      {debrepo.Deb(".zst", regular("./x", zeros)), "bound"},
		"xz bomb":                        {realDeb(t, "xz", map[string][]byte{"usr/bin/tool": []byte(zeros)}), "bound"},
		"sparse bomb":                    {sparse(t, "posix"), "bound"},
		"sparse bomb, older format":      {sparse(t, "gnu"), "member type"},
	} {
		_, err := Unpack(tc.deb, offered(tc.deb), small)
		wantReason(t, name, err, keystead.ReasonPackageCorrupt, tc.says)
	}
}

// sparse is a .deb whose one member has few bytes and 64 MiB of content, as tar writes it.
func sparse(t *testing.T, format string) []byte {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "x"))
	if err := errors.Join(err, f.Truncate(64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "-C", dir, "-S", "--format="+format, "-c", "./x").Output()
	if err != nil || len(out) > 1<<20 {
		t.Fatalf("tar: %d bytes, %v", len(out), err)
	}
	return debrepo.Ar("debian-binary", []byte("2.0\n"), "control.tar", []byte{}, "data.tar", out)
}

func TestMembersThatAreNoFiles(t *testing.T) {
	raw := debrepo.Deb(".gz", tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar},
		tar.Header{Name: "./etc/", Typeflag: tar.TypeDir}, tar.Header{Name: "./etc/link", Typeflag: tar.TypeSymlink, Linkname: "/../../x"}, regular("./etc/file", "x"))
	files, err := Unpack(raw, offered(raw), DefaultLimits)
	if err != nil || len(files) != 1 || files[0].Path != "/etc/file" || files[0].Executable {
		t.Errorf("%+v, %v", files, err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(debrepo.Deb("", regular("./usr/bin/x", "x"), tar.Header{Name: "./y", Typeflag: tar.TypeLink, Linkname: "./usr/bin/x"}))
	f.Add(debrepo.Deb(".gz", regular("./usr/bin/x", "x")))
	f.Add(debrepo.Deb(".zst", regular("./usr/bin/x", "x")))
	f.Add(realDeb(f, "xz", map[string][]byte{"usr/bin/tool": []byte("x")}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		files, err := Unpack(raw, offered(raw), Limits{Bytes: 1 << 20, Files: 64})
		if err != nil && !errors.Is(err, keystead.ReasonPackageCorrupt) {
			t.Fatalf("error %T %v", err, err)
		}
		for _, file := range files {
			if !strings.HasPrefix(file.Path, "/") || strings.Contains(file.Path+"/", "/../") {
				t.Fatalf("path %q", file.Path)
			}
		}
	})
}

func FuzzDecompress(f *testing.F) {
	f.Add(".gz", debrepo.Pack(".gz", []byte("hello")))
	f.Add(".zst", debrepo.Pack(".zst", []byte("hello")))
	f.Add(".lz4", []byte("\x04\x22\x4d\x18\x60\x70\x73\x00\x00\x00\x00"))
	f.Add(".xz", []byte("\xfd7zXZ\x00\x00\x04"))
	f.Add(".bz2", []byte("BZh9"))
	f.Fuzz(func(t *testing.T, suffix string, raw []byte) {
		if b, err := Decompress(suffix, raw, 1<<16); err == nil && len(b) > 1<<16 {
			t.Fatalf("%d bytes", len(b))
		}
	})
}
