package appraise_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/refval"
)

// TestPackaged: the recorded machine, as it should be.
func TestPackaged(t *testing.T) {
	in, _ := onStage(t).input(t, "packaged")
	var told []appraise.File
	v := appraise.Explain(in, func(f appraise.File) { told = append(told, f) })
	if err := v.Err(); err != nil {
		t.Fatal(err)
	}
	n := record().Phases[0].Entries
	c := v.Claims()
	if c.Software.Entries != int64(n) || c.Software.Named != int64(n-1) || c.Packages.Listed != int64(record().Packages) || len(c.Packages.Unlisted) != 0 {
		t.Errorf("want %d entries, all but one named, of %d listed packages, got %+v %+v", n, record().Packages, c.Software, c.Packages)
	}
	if len(told) != n || told[0].Status != appraise.Aggregate || told[1].Status != appraise.Named || told[1].Source == "" || !strings.HasPrefix(told[1].Path, "/usr/") {
		t.Errorf("told of %d files, first %+v", len(told), told[:min(2, len(told))])
	}
	if c.Key.Binding != appraise.BindingActivated || !c.Key.Software || v.Assurance() != evidence.AssuranceTest || !c.Kernel.Accepted || c.Kernel.Lockdown != "confidentiality" {
		t.Errorf("want an activated key of a software TPM and an accepted kernel, got %+v %v %+v", c.Key, v.Assurance(), c.Kernel)
	}
}

// TestUnknownFile: what no package ships, and what can not be looked up.
func TestUnknownFile(t *testing.T) {
	in, _ := onStage(t).input(t, "unknown")
	findings := demand(t, "recorded", in, keystead.ReasonFileAltered, keystead.ReasonFileUnknown)
	if f := findings[len(findings)-1]; f.Where != "/dev/shm/stranger" || !strings.HasPrefix(f.Got, "sha256:") {
		t.Errorf("recorded: the finding does not name the file: %v", f)
	}
	known := record().set.Ref(0)
	buffer := append([]byte("sha256:\x00"), make([]byte, 32)...)
	for _, tc := range []struct {
		what, where, got string
		entry            []byte
	}{
		{"a known digest by another hash", known.Source.Path, "sha512:", measured("sha512", make([]byte, 64), known.Source.Path)},
		{"a buffer", "kexec-cmdline", "sha256:", entry("ima-buf", buffer, []byte("kexec-cmdline\x00"), []byte("quiet"))},
		{"an unknown template", "measurement list, entry 2", "no digest of a file", entry("evil\x00\n", []byte("x"))},
		{"no fields", "measurement list, entry 2", "no digest of a file", entry("ima-ng")},
		{"digest of the wrong length", "/usr/bin/true", "no digest of a file", measured("sha256", make([]byte, 20), "/usr/bin/true")},
		{"a path that is no text", `/tmp/\x1b[2J\"`, "sha256:", measured("sha256", make([]byte, 32), "/tmp/\x1b[2J\"")},
	} {
		f := first(demand(t, tc.what, newForger(t).input(t, machine{ima: [][]byte{tc.entry}}), keystead.ReasonFileUnknown))
		if f.Where != tc.where || !strings.HasPrefix(f.Got, tc.got) {
			t.Errorf("%s: want %s at %s, got %v", tc.what, tc.got, tc.where, f)
		}
	}
}

// TestBufferIsNoFile: the command line of a kexec is measured as a buffer. It is not
// accepted because some package ships a file that reads the same.
func TestBufferIsNoFile(t *testing.T) {
	text := []byte("initcall_blacklist=tis_init")
	digest := keystead.Sum(text)
	c, err := refval.NewCodeSet("files", []refval.Code{{Digest: digest, Path: "/usr/share/example.cfg", Version: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := newForger(t).input(t, machine{ima: [][]byte{measured("sha256", digest[:], "/usr/share/example.cfg")}})
	in.CodeSets = append(in.CodeSets, c)
	demand(t, "the file", in)
	in = newForger(t).input(t, machine{ima: [][]byte{entry("ima-buf", append([]byte("sha256:\x00"), digest[:]...), []byte("kexec-cmdline\x00"), text)}})
	in.CodeSets = append(in.CodeSets, c)
	demand(t, "the buffer", in, keystead.ReasonFileUnknown)
}

// TestAlteredFile: the finding names file, digest found, and package and digest wanted.
func TestAlteredFile(t *testing.T) {
	in, _ := onStage(t).input(t, "altered")
	f := first(demand(t, "recorded", in, keystead.ReasonFileAltered))
	refs, _ := record().set.Path("/usr/bin/whoami")
	if f.Where != "/usr/bin/whoami" || len(refs) != 1 || f.Want != refs[0].Digest.String()+" of package coreutils 9.1-1" || f.Got == refs[0].Digest.String() {
		t.Errorf("recorded: %v", f)
	}
	// A code set owns paths too, in any spelling, and however odd.
	codes, err := refval.NewCodeSet("own", []refval.Code{{Digest: keystead.Sum([]byte("agent")), Path: `/opt/"agent"`, Version: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := measured("sha256", make([]byte, 32), `/opt/"agent"`)
	in = newForger(t).input(t, machine{ima: [][]byte{bad}})
	in.CodeSets = append(in.CodeSets, codes)
	f = first(demand(t, "a code set's path", in, keystead.ReasonFileAltered))
	if f.Want != keystead.Sum([]byte("agent")).String()+" of code set own" {
		t.Errorf("a code set's path: %v", f)
	}
	good := keystead.Sum([]byte("agent"))
	in.Bundle = newForger(t).input(t, machine{ima: [][]byte{measured("sha256", good[:], "/anywhere")}}).Bundle
	demand(t, "a code set's content", in)
}

// TestWeakDigest: a measurement by MD5 or SHA-1 is not looked up at all.
func TestWeakDigest(t *testing.T) {
	ref := record().set.Ref(0)
	for alg, n := range map[string]int{"md5": 16, "sha1": 20} {
		in := newForger(t).input(t, machine{ima: [][]byte{measured(alg, ref.Digest[:n], ref.Source.Path)}})
		f := first(demand(t, alg, in, keystead.ReasonDigestWeak))
		if want := alg + ":" + hex.EncodeToString(ref.Digest[:n]); f.Got != want || f.Where != ref.Source.Path {
			t.Errorf("%s: want %s found at %s, got %v", alg, want, ref.Source.Path, f)
		}
		if c := appraise.Appraise(in).Claims().Software; c.Weak != 1 || c.Named != 0 {
			t.Errorf("%s: want one weak file, none named, got %+v", alg, c)
		}
	}
}

// TestViolation: the list may say of a violation what it likes.
func TestViolation(t *testing.T) {
	ref := record().set.Ref(0)
	in := newForger(t).input(t, machine{ima: [][]byte{violated(measured("sha256", ref.Digest[:], ref.Source.Path))}})
	f := first(demand(t, "a violation that calls itself a known file", in, keystead.ReasonViolation))
	if !strings.Contains(f.Got, "the log's word alone") {
		t.Errorf("the finding does not say that the path is not proven: %v", f)
	}
}

// TestPackageListLie: the host's list counts as names only.
func TestPackageListLie(t *testing.T) {
	s := onStage(t)
	list := func(edit func(string) string) appraise.Input {
		return s.edited(t, func(p *evidence.Parts) { p.Packages.Data = []byte(edit(string(p.Packages.Data))) })
	}
	without := func(name string) func(string) string {
		return func(status string) string {
			return strings.Join(slices.DeleteFunc(strings.Split(status, "\n\n"), func(p string) bool { return strings.HasPrefix(p, "Package: "+name+"\n") }), "\n\n")
		}
	}
	in := list(without("coreutils"))
	findings := demand(t, "a package whose files ran is left out", in, keystead.ReasonPackageUnlisted, keystead.ReasonRuleFailed)
	if findings[0].Where != "coreutils" {
		t.Errorf("want coreutils named, got %v", findings[0])
	}
	stranger := "Package: stranger\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n"
	in = list(func(s string) string { return stranger + s })
	in.Bundle = func() evidence.Bundle {
		parts := in.Bundle.Parts()
		parts.TPM, parts.IMALog = s.taken["unknown"], record().Phases[2].IMALog
		return bundle(t, parts)
	}()
	demand(t, "a package that does not exist is listed, and its file ran", in, keystead.ReasonFileAltered, keystead.ReasonFileUnknown)
	in = list(func(s string) string { return strings.Replace(s, "Version: 9.1-1", "Version: 99", 1) })
	demand(t, "a version that does not exist", in)
	if ran := appraise.Appraise(in).Claims().Software.Packages; !slices.Contains(ran, "coreutils=9.1-1") {
		t.Errorf("want the version that ran, not the listed one, got %v", ran)
	}
	demand(t, "no list", s.edited(t, func(p *evidence.Parts) { p.Packages = nil }), keystead.ReasonEvidenceMissing)
	demand(t, "a list of another format", s.edited(t, func(p *evidence.Parts) { p.Packages.Format = "rpm" }), keystead.ReasonMalformed)
	demand(t, "garbage", list(func(string) string { return "\x00\n: :\n" }), keystead.ReasonMalformed)
}

// TestListedPackageIsPreferred: of two packages that ship one file, the listed one ran.
func TestListedPackageIsPreferred(t *testing.T) {
	in := newForger(t).input(t, machine{ima: entries(t, record().Phases[0].IMALog)[1:]})
	demand(t, "one set", in)
	copied := refval.NewBuilder(refval.SelectAll)
	whoami, _ := record().set.Path("/usr/bin/mount")
	err := copied.Add(refval.Package{Name: "aaa-copy", Version: "1", Architecture: "amd64", Strength: refval.StrengthRepositoryRehash},
		[]refval.Repository{{Origin: "Copy", Signers: []string{"0"}}}, []refval.File{{Path: "/usr/bin/copy", Digest: whoami[0].Digest}})
	if err != nil {
		t.Fatal(err)
	}
	copySet, err := copied.Set()
	if err != nil {
		t.Fatal(err)
	}
	merged, err := refval.Merge(copySet, record().set)
	if err != nil {
		t.Fatal(err)
	}
	for what, sets := range map[string][]*refval.Set{"two sets": {copySet, record().set}, "one merged set": {merged}} {
		in.References = sets
		demand(t, what, in)
		if ran := appraise.Appraise(in).Claims().Software.Packages; slices.Contains(ran, "aaa-copy=1") {
			t.Errorf("%s: the unlisted package is said to have run", what)
		}
	}
	in.References = []*refval.Set{copySet}
	if c := appraise.Appraise(in).Claims(); !slices.Equal(c.Packages.Unlisted, []string{"aaa-copy"}) {
		t.Errorf("the copy alone: want it unlisted, got %+v", c.Packages)
	}
}

// bootsWith is the recorded code set with its one boot entry and loader changed.
func bootsWith(t *testing.T, edit func(*refval.Boot, *[]refval.Code)) []*refval.CodeSet {
	t.Helper()
	boots, files := slices.Collect(record().codes.Boots()), record().codes.Files()
	edit(&boots[0], &files)
	c, err := refval.NewCodeSet("other", files, boots)
	if err != nil {
		t.Fatal(err)
	}
	return []*refval.CodeSet{c}
}

// TestOtherBoot: a boot that is not the accepted one in any part.
func TestOtherBoot(t *testing.T) {
	other := keystead.Sum([]byte("other"))
	for what, c := range map[string]struct {
		edit  func(*refval.Boot, *[]refval.Code)
		where string // the finding's place: register and event of each part that differs
		text  string // in what was found
	}{
		"kernel":       {func(b *refval.Boot, _ *[]refval.Code) { b.Kernel = other }, `^kernel \(PCR 4, event \d+, EV_EFI_BOOT_SERVICES_APPLICATION\)$`, "kernel sha256:"},
		"initrd":       {func(b *refval.Boot, _ *[]refval.Code) { b.Initrd = other }, `^initrd \(PCR 9, event \d+, EV_EVENT_TAG\)$`, "initrd sha256:"},
		"no initrd":    {func(b *refval.Boot, _ *[]refval.Code) { b.Initrd = keystead.Digest{} }, `^initrd \(PCR 9, event \d+, EV_EVENT_TAG\)$`, "initrd sha256:"},
		"command line": {func(b *refval.Boot, _ *[]refval.Code) { b.CommandLine += " init=/bin/sh" }, `^command line \(PCR 9, event \d+, EV_EVENT_TAG\)$`, "root=/dev/vda rw"},
		"loader":       {func(_ *refval.Boot, files *[]refval.Code) { *files = nil }, `^loaded before the kernel \(PCR 4, event \d+, EV_EFI_BOOT_SERVICES_APPLICATION\)$`, "sha256:"},
		"roles exchanged": {func(b *refval.Boot, _ *[]refval.Code) { b.Kernel, b.Initrd = b.Initrd, b.Kernel },
			`^kernel \(PCR 4, event \d+, EV_EFI_BOOT_SERVICES_APPLICATION\); initrd \(PCR 9, event \d+, EV_EVENT_TAG\)$`, "kernel sha256:"},
	} {
		in, _ := onStage(t).input(t, "packaged")
		in.CodeSets = bootsWith(t, c.edit)
		// Without an accepted boot nothing guarantees the measuring policy either.
		f := first(demand(t, what, in, keystead.ReasonBootUnaccepted, keystead.ReasonBootUnaccepted))
		if !regexp.MustCompile(c.where).MatchString(f.Where) || !strings.Contains(f.Got, c.text) {
			t.Errorf("%s: got %v", what, f)
		}
		if k := appraise.Appraise(in).Claims().Kernel; k.Accepted || k.Initrd != "" || k.CommandLine != "" || k.Guarantees == nil || len(k.Guarantees) != 0 {
			t.Errorf("%s: claimed %+v", what, k)
		}
	}
	in, _ := onStage(t).input(t, "packaged")
	in.CodeSets = bootsWith(t, func(b *refval.Boot, _ *[]refval.Code) { b.Guarantees = nil })
	f := first(demand(t, "an initrd that guarantees nothing", in, keystead.ReasonBootUnaccepted))
	if f.Where != "ima-policy" {
		t.Errorf("an initrd that guarantees nothing: %v", f)
	}
	in.CodeSets = nil
	demand(t, "no code set", in, keystead.ReasonBootUnaccepted, keystead.ReasonBootUnaccepted)
	in = onStage(t).edited(t, func(p *evidence.Parts) { p.IMALog = nil })
	in.Policy = compile(t, strings.Replace(named, "every-entry", "report", 1))
	f = first(demand(t, "no IMA log, so nothing shows that the registers stayed as they were", in, keystead.ReasonEvidenceMissing))
	if f.Where != "ima-log" || appraise.Appraise(in).Claims().Kernel.Accepted {
		t.Errorf("no IMA log: %v", f)
	}
}

// TestDriverBeforeKernel: a variable of the firmware has it load a driver from disk,
// which is measured into PCR 2 and can change the kernel, whose own digest stays.
func TestDriverBeforeKernel(t *testing.T) {
	log := events(t, record().EventLog)
	driver := event(2, 0x80000004, []byte("a driver's image"), make([]byte, 32)) // EV_EFI_BOOT_SERVICES_DRIVER
	in := newForger(t).input(t, machine{eventLog: slices.Concat(slices.Insert(slices.Clone(log), 15, driver)...)})
	f := first(demand(t, "a driver", in, keystead.ReasonBootUnaccepted, keystead.ReasonBootUnaccepted))
	if digest := keystead.Sum([]byte("a driver's image")); !strings.Contains(f.Got, digest.String()) {
		t.Errorf("the finding does not name the driver: %v", f)
	}
	in.CodeSets = append(in.CodeSets, func() *refval.CodeSet {
		c, err := refval.NewCodeSet("drivers", []refval.Code{{Digest: keystead.Sum([]byte("a driver's image")), Path: "/EFI/driver.efi", Version: "1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}())
	demand(t, "an accepted driver", in)
}

// TestLoaderReadsFiles: without Secure Boot, an accepted GRUB runs any module or
// kernel that it reads from disk, and the digest of an accepted kernel in PCR 4 does
// not say that this kernel started. What such a loader read is in PCR 9.
func TestLoaderReadsFiles(t *testing.T) {
	log := events(t, record().EventLog)
	module := event(9, 0xd, []byte("a module of GRUB"), []byte("/boot/grub/x86_64-efi/evil.mod")) // EV_IPL
	in := newForger(t).input(t, machine{eventLog: slices.Concat(slices.Insert(slices.Clone(log), 15, module)...)})
	f := first(demand(t, "a module", in, keystead.ReasonBootUnaccepted, keystead.ReasonBootUnaccepted))
	if digest := keystead.Sum([]byte("a module of GRUB")); !strings.Contains(f.Got, digest.String()) {
		t.Errorf("the finding does not name the module: %v", f)
	}
	c, err := refval.NewCodeSet("grub", []refval.Code{{Digest: keystead.Sum([]byte("a module of GRUB")), Path: "/boot/grub/x86_64-efi/good.mod", Version: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in.CodeSets = append(in.CodeSets, c)
	demand(t, "an accepted module", in)
}

// TestAssurance: what each level needs. The software TPM's authority stands in for a
// vendor's here, as it would if somebody configured it so.
func TestAssurance(t *testing.T) {
	gdb := refval.NewBuilder(refval.SelectAll)
	for _, name := range []string{"gdb", "lldb-14", "gdbm-l10n"} {
		err := gdb.Add(refval.Package{Name: name, Version: "1", Architecture: "amd64", Strength: refval.StrengthRepositoryRehash},
			[]refval.Repository{{Origin: "Debian", Signers: []string{"0"}}}, []refval.File{{Path: "/usr/bin/" + name, Digest: keystead.Sum([]byte(name))}})
		if err != nil {
			t.Fatal(err)
		}
	}
	debuggers, err := gdb.Set()
	if err != nil {
		t.Fatal(err)
	}
	hardware := func(in *appraise.Input) {
		in.EKRoots.Hardware, in.EKRoots.Test = []*x509.Certificate{onStage(t).ca.Root}, nil
	}
	withBoot := func(edit func(*refval.Boot, *[]refval.Code)) func(*appraise.Input) {
		return func(in *appraise.Input) { hardware(in); in.CodeSets = bootsWith(t, edit) }
	}
	for _, tc := range []struct {
		what string
		edit func(*appraise.Input)
		want evidence.Assurance
	}{
		{"no key", func(in *appraise.Input) { in.Key = appraise.AcceptedKey{} }, evidence.AssuranceNone},
		{"a key that is only named", func(in *appraise.Input) { hardware(in); in.Key = appraise.AcceptedKey{Name: in.Key.Name} }, evidence.AssuranceTest},
		{"a software TPM", func(*appraise.Input) {}, evidence.AssuranceTest},
		{"an authority that is both", func(in *appraise.Input) { in.EKRoots.Hardware = in.EKRoots.Test }, evidence.AssuranceTest},
		{"a hardware TPM, locked down", hardware, evidence.AssuranceMeasuredOS},
		{"a debugger among the packages", func(in *appraise.Input) { hardware(in); in.References = append(in.References, debuggers) }, evidence.AssuranceMeasuredOSWeak},
		{"no ptrace-scope-3", withBoot(func(b *refval.Boot, _ *[]refval.Code) { b.Guarantees = []refval.Guarantee{refval.GuaranteeIMAPolicy} }), evidence.AssuranceMeasuredOSWeak},
		{"a boot that is not accepted", withBoot(func(b *refval.Boot, _ *[]refval.Code) { b.Kernel = keystead.Digest{1} }), evidence.AssuranceMeasuredOSWeak},
	} {
		in, _ := onStage(t).input(t, "packaged")
		tc.edit(&in)
		if v := appraise.Appraise(in); v.Assurance() != tc.want || v.Claims().Assurance != tc.want.String() {
			t.Errorf("%s: want %v, got %v", tc.what, tc.want, v.Assurance())
		}
	}
	in, _ := onStage(t).input(t, "unknown") // a report of files that nobody names does not deny, but weakens
	hardware(&in)
	in.Policy = compile(t, strings.NewReplacer("every-entry", "report", "assurance test", "assurance measured-os").Replace(named))
	f := first(demand(t, "files that nobody names", in, keystead.ReasonAssuranceLow))
	if f.Got != "measured-os-weak, lacking executed files of packages or code sets alone" {
		t.Errorf("files that nobody names: %v", f)
	}
	in, _ = onStage(t).input(t, "packaged")
	in.References = append(in.References, debuggers)
	if got := appraise.Appraise(in).Claims().Packages.Debuggers; !slices.Equal(got, []string{"gdb", "lldb-14"}) {
		t.Errorf("want gdb and lldb-14 as debuggers, got %v", got)
	}
}

// TestSoftwareReport: where the policy only wants a report, files are counted and deny nothing.
func TestSoftwareReport(t *testing.T) {
	in, _ := onStage(t).input(t, "unknown")
	in.Policy = compile(t, strings.Replace(named, "every-entry", "report", 1))
	demand(t, "report", in)
	v := appraise.Appraise(in)
	if c := v.Claims().Software; c.Altered != 1 || c.Unknown != 1 {
		t.Errorf("want one altered and one unknown file, got %+v", c)
	}
	if bytes.Contains(v.Bytes(), []byte("null")) {
		t.Errorf("the verdict holds a null: %s", v.Bytes())
	}
}
