package refval

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

func sampleCodeSet(t testing.TB) *CodeSet {
	c, err := NewCodeSet("demo",
		[]Code{{Digest: digestOf("v1"), Path: "/usr/local/bin/keystead", Version: "1.0"}, {Digest: digestOf("v2"), Path: "/usr/local/bin/keystead", Version: "1.1"}},
		[]Boot{{Name: "debian-12", Kernel: digestOf("kernel"), Initrd: digestOf("initrd"), CommandLine: `root=/dev/vda "quoted" <x>`,
			Guarantees: []Guarantee{GuaranteePtraceScope3, GuaranteeIMAPolicy}}, {Name: "a-uki", Kernel: digestOf("uki")}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func member(t testing.TB, name string, seed byte) key.Member {
	m, err := key.NewMember(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)), name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCodeSetRoundTrip(t *testing.T) {
	c := sampleCodeSet(t)
	again, err := ParseCodeSet("keystead-codeset/1\n# why: a comment\n\n" + strings.TrimPrefix(c.Text(), "keystead-codeset/1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.Files(), c.Files()) || len(slices.Collect(again.Boots())) != 2 || again.Name() != "demo" {
		t.Errorf("content differs after a comment: %+v", again)
	}
	boot := slices.Collect(c.Boots())[1]
	want := Boot{Name: "debian-12", Kernel: digestOf("kernel"), Initrd: digestOf("initrd"), CommandLine: `root=/dev/vda "quoted" <x>`, Guarantees: []Guarantee{GuaranteeIMAPolicy, GuaranteePtraceScope3}}
	if fmt.Sprint(boot) != fmt.Sprint(want) {
		t.Errorf("boot = %+v, want %+v", boot, want)
	}
	if code, ok := c.Lookup(digestOf("v2")); !ok || code.Version != "1.1" || c.Len() != 2 {
		t.Errorf("Lookup = %+v, %v", code, ok)
	}
	if _, ok := c.Lookup(digestOf("v3")); ok {
		t.Error("an unknown digest was found")
	}
	if w := c.Path("./usr/local/bin/keystead"); len(w) != 2 {
		t.Errorf("Path = %v, want both versions", w)
	}
}

func TestOpenCodeSet(t *testing.T) {
	c := sampleCodeSet(t)
	ours := member(t, "domain.example", 1)
	theirs := member(t, "stranger.example", 2)
	impostor := member(t, "domain.example", 3) // the accepted name, another key
	accepted, stranger := ours.Public(), theirs.Public()
	sign := func(m key.Member) []byte {
		b, err := c.Sign(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	both, err := theirs.Cosign(sign(ours))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenCodeSet(both, accepted)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Digest() != c.Digest() || !slices.Equal(opened.SignedBy(), []key.MemberPublic{accepted}) {
		t.Errorf("digest %v, signers %v", opened.Digest(), opened.SignedBy())
	}
	policy, err := ours.Sign([]byte("keystead-policy/1\nname demo\n"))
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.Replace(sign(ours), []byte("1.1"), []byte("1.2"), 1)
	for name, tc := range map[string]struct {
		note []byte
		keys []key.MemberPublic
	}{
		"signed by a stranger":       {sign(theirs), []key.MemberPublic{accepted}},
		"signed under a stolen name": {sign(impostor), []key.MemberPublic{accepted}},
		"altered":                    {altered, []key.MemberPublic{accepted}},
		"altered, stranger's added":  {append(slices.Clone(altered), "— stranger.example AAAAAAAAAAAA\n"...), []key.MemberPublic{accepted}},
		"no key given":               {sign(ours), nil},
		"a signed policy":            {policy, []key.MemberPublic{accepted}},
		"no signature block":         {[]byte(c.Text()), []key.MemberPublic{accepted}},
		"another key given":          {sign(ours), []key.MemberPublic{stranger}},
	} {
		if c, err := OpenCodeSet(tc.note, tc.keys...); !errors.Is(err, keystead.ReasonNoteUnsigned) || c != nil {
			t.Errorf("%s: error %v, want note-unsigned", name, err)
		}
	}
}

func TestParseCodeSetRefuses(t *testing.T) {
	good := sampleCodeSet(t).Text()
	d := digestOf("x").String()
	add := func(line string) string { return good + line + "\n" }
	long := keystead.Sum384([]byte("x")).String()
	three := func(line string) string { return "keystead-codeset/3\nname x\n" + line + "\n" }
	two := func(line string) string { return "keystead-codeset/2\nname x\n" + line + "\n" }
	for _, tc := range []struct{ text, field, problem string }{
		{"", "name", "missing"},
		{"keystead-codeset/4\nname x\n", "line 1", "want"},
		{add("file " + long + " /a 1"), "line", "digest is written"},
		{add("boot x kernel=" + d + "," + long + ` initrd=none guarantees=none cmdline=""`), "line", "digest is written"},
		{add("boot x kernel=" + d + ` initrd=none guarantees=initrd-bound cmdline=""`), "line", "not one of"},
		{two("firmware ovmf " + long), "line", "not one of"},
		{three("boot x kernel=" + long + "," + d + ` initrd=none guarantees=none cmdline=""`), "line", "one digest of SHA-256"},
		{three("boot x kernel=" + d + "," + d + ` initrd=none guarantees=none cmdline=""`), "line", "one digest of SHA-256"},
		{three("boot x kernel=" + d + "," + long + "," + long + ` initrd=none guarantees=none cmdline=""`), "line", "one digest of SHA-256"},
		{three("boot x kernel=sha384:" + strings.Repeat("0", 96) + ` initrd=none guarantees=none cmdline=""`), "line", "zero"},
		{three("file " + long + " /a 1\nfile " + long + " /b 1"), "line", "twice"},
		{three("firmware ovmf"), "line", "want: firmware"},
		{three("firmware ovmf " + long + " guarantees=none"), "line", "want: firmware"},
		{three("image guest " + long), "line", "want: firmware"},
		{three("image guest " + long + " none"), "line", "want guarantees="},
		{three("image guest " + long + " guarantees=safe"), "line", "not one of"},
		{three("firmware ovmf " + strings.ToUpper(long)), "line", "digest is written"},
		{three("firmware ovmf sha384:" + strings.Repeat("0", 96)), "line", "zeros"},
		{three("firmware ovmf " + long + "\nimage guest " + long + " guarantees=none"), "line", "twice"},
		{add("loader shim-signed"), "line", "not one of"},
		{add("boot x kernel=package:linux-image-* initrd=none guarantees=none cmdline=\"\""), "line", "digest is written"},
		{add("boot x kernel=" + d + ` initrd=none guarantees=none cmdline="${version}"`), "line", "stands for a package's kernel"},
		{two("loader *"), "line", "no package's name"},
		{two("loader a*b*"), "line", "no package's name"},
		{two("loader shim signed"), "line", "one word"},
		{two(`boot x kernel=package: initrd=none guarantees=none cmdline=""`), "line", "no package's name"},
		{two(`boot x kernel=none initrd=none guarantees=none cmdline=""`), "line", "digest is written"},
		{two("boot x kernel=" + d + ` initrd=package:* guarantees=none cmdline=""`), "line", "no package's name"},
		{"keystead-codeset/1\n", "name", "missing"},
		{strings.TrimSuffix(good, "\n"), "line", "newline"},
		{add("name other"), "line", "second time"},
		{add("package bash"), "line", "not one of"},
		{add("file " + d + " /a"), "line", "want: file"},
		{add("file " + d + " a 1"), "line", "absolute"},
		{add("file " + d + " /../a 1"), "line", "absolute"},
		{add("file md5:d41d8cd98f00b204e9800998ecf8427e /a 1"), "line", "digest is written"},
		{add("file " + strings.ToUpper(d) + " /a 1"), "line", "digest is written"},
		{add("file " + digestOf("v1").String() + " /a 1"), "line", "twice"},
		{add("file " + d + " /a 1\r"), "line", "control"},
		{add("file sha256:" + strings.Repeat("0", 64) + " /a 1"), "line", "zero"},
		{three("file sha384:" + strings.Repeat("0", 96) + " /a 1"), "line", "zero"},
		{add("boot x kernel=" + d), "line", "want initrd="},
		{add("boot x kernel=" + d + " initrd=none guarantees=safe cmdline=\"\""), "line", "not one of"},
		{add("boot x kernel=" + d + " initrd=none guarantees=ptrace-scope-3,ima-policy cmdline=\"\""), "line", "order"},
		{add("boot x kernel=" + d + " initrd=none guarantees=none cmdline=null"), "line", "spelling"},
		{add("boot x kernel=" + d + ` initrd=none guarantees=none cmdline="a" "b"`), "line", "cmdline"},
		{add("boot x kernel=sha256:" + strings.Repeat("0", 64) + ` initrd=none guarantees=none cmdline=""`), "line", "zero"},
		{add("boot a-uki kernel=" + d + ` initrd=none guarantees=none cmdline=""`), "boot", "twice"},
	} {
		_, err := ParseCodeSet(tc.text)
		wantFormat(t, fmt.Sprintf("%q", strings.TrimPrefix(tc.text, good)), err, tc.field, tc.problem)
	}
	if _, err := NewCodeSet("x", []Code{{Digest: digestOf("x"), Path: "/a", Version: "1\nname y"}}, nil); err == nil {
		t.Error("a version with a newline was written")
	}
	if _, err := NewCodeSet("x", nil, []Boot{{Name: "b", Kernel: digestOf("x"), CommandLine: "a\xff"}}); err == nil {
		t.Error("a command line that is not UTF-8 was written as another one")
	}
}

func FuzzParseCodeSet(f *testing.F) {
	f.Add(sampleCodeSet(f).Text())
	m := keystead.Sum384([]byte("x"))
	f.Add(fmt.Sprintf("keystead-codeset/3\nname x\nfile %v /a 1\nboot b kernel=%v,%v initrd=%v guarantees=ima-policy,initrd-bound cmdline=\"\"\nfirmware f %v\nimage i %v guarantees=none\n",
		m, digestOf("x"), m, m, m, digestOf("y")))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCodeSet(text)
		if err != nil {
			return
		}
		again, err := NewCodeSet(c.Name(), c.Files(), slices.Collect(c.Boots()))
		if err == nil {
			again, err = again.WithLaunches(slices.Collect(c.Launches())...)
		}
		if err == nil && fmt.Sprint(again.launches) != fmt.Sprint(c.launches) {
			t.Errorf("launch measurements %v come back as %v", c.launches, again.launches)
		}
		if err != nil || !slices.Equal(again.Files(), c.Files()) || fmt.Sprint(slices.Collect(again.Boots())) != fmt.Sprint(slices.Collect(c.Boots())) {
			t.Fatalf("%q: written again it differs: %v", text, err)
		}
	})
}

// TestBootByPackage: what a code set takes for a kernel, an initrd or a loader.
func TestBootByPackage(t *testing.T) {
	boot := Boot{Name: "any", KernelPackage: "linux-image-*", InitrdPackage: "fleet-initrd", CommandLine: "BOOT_IMAGE=/vmlinuz-${version} ro"}
	c, err := NewCodeSet("x", nil, []Boot{boot}, "shim-signed", "grub-efi-amd64-signed")
	if err != nil {
		t.Fatal(err)
	}
	if want := "keystead-codeset/2\nname x\nloader grub-efi-amd64-signed\nloader shim-signed\nboot any kernel=package:linux-image-* initrd=package:fleet-initrd guarantees=none cmdline=\"BOOT_IMAGE=/vmlinuz-${version} ro\"\n"; c.Text() != want {
		t.Errorf("got %s", c.Text())
	}
	read, err := ParseCodeSet(c.Text())
	if err != nil {
		t.Fatal(err)
	}
	for b := range read.Boots() {
		boot = b
	}
	if got := boot.Line("/boot/vmlinuz-6.12.9-amd64"); got != "BOOT_IMAGE=/vmlinuz-6.12.9-amd64 ro" {
		t.Errorf("got %q", got)
	}
	for _, tc := range []struct {
		pkg, path              string
		kernel, initrd, loader bool
	}{
		{"linux-image-6.12.9-amd64", "/boot/vmlinuz-6.12.9-amd64", true, false, false},
		{"linux-image-6.12.9-amd64", "/usr/lib/modules/6.12.9/vmlinuz", true, false, false},
		{"linux-image-6.12.9-amd64", "/usr/lib/linux/other.efi", false, false, false},
		{"linux-image", "/boot/vmlinuz", false, false, false},
		{"grub-efi-amd64-signed", "/usr/lib/grub/vmlinuz", false, false, true},
		{"grub-efi-amd64-signed-x", "/usr/lib/grub/grubx64.efi", false, false, false},
		{"fleet-initrd", "/boot/initrd.img-6.12.9-amd64", false, true, false},
		{"fleet-initrd", "/boot/initramfs-6.12.9.img", false, true, false},
		{"fleet-initrd", "/usr/bin/initrdtool", false, false, false},
		{"fleet-initrd-evil", "/boot/initrd.img", false, false, false},
		{"shim-signed", "/usr/lib/shim/shimx64.efi.signed", false, false, true},
	} {
		s := Source{Package: tc.pkg, Path: tc.path}
		if boot.ShipsKernel(s) != tc.kernel || boot.ShipsInitrd(s) != tc.initrd || read.Loads(s) != tc.loader {
			t.Errorf("%s %s: kernel %v, initrd %v, loader %v", tc.pkg, tc.path, boot.ShipsKernel(s), boot.ShipsInitrd(s), read.Loads(s))
		}
	}
}

// TestLongDigests: a code set that names contents by SHA-384, and launch measurements, comes
// back as it was written, in version 3; each digest answers for itself alone.
func TestLongDigests(t *testing.T) {
	long := func(s string) keystead.Measured { return keystead.Sum384([]byte(s)) }
	both := Boot{Name: "both", Kernel: digestOf("kernel"), Kernel384: long("kernel"), Initrd384: long("initrd"), CommandLine: "quiet", Guarantees: []Guarantee{GuaranteeInitrdBound}}
	launches := []Launch{{Name: "ovmf", Digest: long("ovmf")}, {Name: "guest", Digest: digestOf("guest").Measured(), Image: true, Guarantees: []Guarantee{GuaranteeIMAPolicy}}}
	c, err := NewCodeSet("long", []Code{{Digest384: long("grub"), Path: "/EFI/grub.efi", Version: "2"}, {Digest: digestOf("grub"), Path: "/EFI/grub.efi", Version: "2"}}, []Boot{both})
	if err == nil {
		c, err = c.WithLaunches(launches...)
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCodeSet(c.Text())
	if err != nil || !strings.HasPrefix(c.Text(), "keystead-codeset/3\n") {
		t.Fatalf("%v of %s", err, c.Text())
	}
	boot := slices.Collect(again.Boots())[0]
	if fmt.Sprint(boot) != fmt.Sprint(both) || fmt.Sprint(slices.Collect(again.Launches())) != fmt.Sprint(launches) || !slices.Equal(again.Files(), c.Files()) || len(again.Path("/EFI/grub.efi")) != 1 {
		t.Errorf("%+v, %+v", boot, again.Files())
	}
	for m, want := range map[keystead.Measured][3]bool{
		{}:                             {},
		digestOf("kernel").Measured():  {true},
		long("kernel"):                 {true},
		digestOf("initrd").Measured():  {}, // named by SHA-384 alone
		long("initrd"):                 {false, true},
		long("grub"):                   {false, false, true},
		digestOf("grub").Measured():    {false, false, true},
		long("grub").Name().Measured(): {}, // a name is not a digest
	} {
		if got := [3]bool{boot.HasKernel(m), boot.HasInitrd(m), again.Knows(m)}; got != want {
			t.Errorf("%v: kernel, initrd, file %v, want %v", m, got, want)
		}
	}
	if f, ok := again.Lookup(long("grub").Name()); ok {
		t.Errorf("a file that holds a digest's text is taken for %+v", f)
	}
	if l, ok := again.Launch(long("ovmf")); !ok || l.Image || l.Name != "ovmf" {
		t.Errorf("%+v", l)
	}
	if _, ok := again.Launch(digestOf("ovmf").Measured()); ok {
		t.Error("firmware is known by another digest")
	}
	if none := (Boot{Kernel: digestOf("uki")}); !none.HasInitrd(keystead.Measured{}) || none.HasInitrd(long("initrd")) {
		t.Error("a boot without an initrd has one, or needs one")
	}
}

// TestEFISetsStayApart: a digest of Authenticode's is never one of a file.
func TestEFISetsStayApart(t *testing.T) {
	p := Package{Name: "linux-image", Version: "1", Architecture: "amd64", Digest: digestOf("deb"), Strength: StrengthRepositoryRehash}
	set := func(s Selection) *Set {
		b := NewBuilder(s)
		offers := []Repository{{Origin: "Debian", Suite: "stable", Codename: "bookworm", Release: digestOf("release"), Signers: []string{"AB"}}}
		if err := b.Add(p, offers, []File{{"/boot/vmlinuz", digestOf("kernel")}}); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(Package{Name: "bash", Version: "1", Architecture: "amd64", Digest: digestOf("bash"), Strength: p.Strength}, offers, nil); err != nil {
			t.Fatal(err)
		}
		out, err := b.Set()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	efi, files, boot := set(SelectEFI), set(SelectAll), set(SelectBoot)
	if n := len(efi.Header().Packages); n != 1 {
		t.Errorf("%d packages in a set of EFI programs of one", n)
	}
	for _, sets := range [][2]*Set{{efi, files}, {files, efi}, {efi, boot}, {boot, efi}, {boot, files}} {
		_, err := Merge(sets[0], sets[1])
		wantFormat(t, "merge", err, "selection", "another kind")
	}
	for _, same := range []*Set{efi, boot} {
		if _, err := Merge(same, same); err != nil {
			t.Error(err)
		}
	}
	if _, err := Parse(efi.Bytes()); err != nil {
		t.Error(err)
	}
}
