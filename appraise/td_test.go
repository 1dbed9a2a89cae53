package appraise_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/internal/authenticode"
	"github.com/keystead/keystead/internal/debrepo"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/refval"
	"github.com/keystead/keystead/refval/deb"
)

// A td is a made-up TD: its registers are what its log leads to.
type td struct {
	intel *foundry.Intel
	log   [][]byte // header, then events by register: 1 is RTMR 0
}

// rtmrOf is where a TD has what firmware and loaders measure into a PCR (UEFI 2.10, 38.4.1).
func rtmrOf(pcr uint32) uint32 {
	switch {
	case pcr == 0:
		return 0
	case pcr == 1 || pcr == 7:
		return 1
	case pcr < 7:
		return 2
	}
	return 3
}

// recordedTD boots as the recorded machine did: the same firmware measured the same kernel
// by SHA-384, too, into the registers of a TPM.
func recordedTD(t testing.TB) *td {
	out := &td{intel: foundry.NewIntel()}
	for i, e := range events(t, record().EventLog) {
		e = bytes.Clone(e)
		if i > 0 {
			binary.LittleEndian.PutUint32(e, rtmrOf(binary.LittleEndian.Uint32(e)))
		}
		out.log = append(out.log, e)
	}
	return out
}

// digest384 is the SHA-384 digest of an event of both banks.
func digest384(e []byte) keystead.Measured {
	return keystead.MeasuredBytes(e[12+2+32+2:][:48])
}

// find returns the number of the last event of that register and type.
func (d *td) find(t testing.TB, register uint32, kind eventlog.Type) int {
	t.Helper()
	for i := len(d.log) - 1; i > 0; i-- {
		if le := binary.LittleEndian; le.Uint32(d.log[i]) == register && eventlog.Type(le.Uint32(d.log[i][4:])) == kind {
			return i
		}
	}
	t.Fatalf("no event of %v in register %d", kind, register)
	return 0
}

// input is the TD's evidence in answer to the question; its policy asks for an accepted boot.
func (d *td) input(t testing.TB, sets ...*refval.CodeSet) appraise.Input {
	t.Helper()
	p := evidence.PCRs{Bank: evidence.SHA384}
	for i := range 4 {
		p.Value[i] = make([]byte, 48)
	}
	for _, e := range d.log[1:] {
		if n := binary.LittleEndian.Uint32(e); n > 0 && eventlog.Type(binary.LittleEndian.Uint32(e[4:])) != eventlog.NoAction {
			p.Extend(int(n-1), digest384(e).Bytes())
		}
	}
	quote := d.intel.Quote(question.ReportData(nil), foundry.Quoting{Version: 5, Edit: func(body []byte) {
		for i := range 4 {
			copy(body[foundry.TDRTMR+48*i:], p.Value[i])
		}
	}})
	in := forged(t, evidence.TEE{Kind: evidence.KindTDX, Report: quote, Log: slices.Concat(d.log...)}, d.intel.Roots(), "", d.intel.Pieces(foundry.World{})...)
	in.Policy, in.CodeSets = compile(t, strings.Replace(teePolicy(""), "boot report\n", "", 1)), sets
	return in
}

// launch is the launch measurement of the foundry's TDs.
var launch = keystead.MeasuredBytes(bytes.Repeat([]byte{0xCD}, 48))

// firmware is a code set that accepts their firmware alone.
func firmware(t testing.TB) *refval.CodeSet {
	t.Helper()
	return must(must(refval.ParseCodeSet("keystead-codeset/3\nname firmware\n")).WithLaunches(refval.Launch{Name: "ovmf-1", Digest: launch}))
}

// bootsOf is the recorded machine's code set, with what it accepts by SHA-384, too.
func (d *td) bootsOf(t testing.TB, edit func(*refval.Boot)) *refval.CodeSet {
	t.Helper()
	boot := slices.Collect(record().codes.Boots())[0]
	boot.Kernel384 = digest384(d.log[d.find(t, 2, eventlog.EFIApplication)])
	boot.Initrd384 = digest384(d.log[d.find(t, 3, eventlog.EventTag)])
	boot.Guarantees = append(slices.Clone(boot.Guarantees), refval.GuaranteeInitrdBound)
	if edit != nil {
		edit(&boot)
	}
	files := record().codes.Files()
	for i, e := range d.log[1:] {
		if le := binary.LittleEndian; le.Uint32(e) == 2 && eventlog.Type(le.Uint32(e[4:])) == eventlog.EFIApplication && i+1 != d.find(t, 2, eventlog.EFIApplication) {
			files = append(files, refval.Code{Digest384: digest384(e), Path: files[0].Path, Version: files[0].Version})
		}
	}
	return must(refval.NewCodeSet("fleet", files, []refval.Boot{boot}))
}

// TestTDBoot: the kernel that the recorded machine booted is accepted of a TD by SHA-384,
// and by the same code set of the machine with a TPM.
func TestTDBoot(t *testing.T) {
	d := recordedTD(t)
	set := d.bootsOf(t, nil)
	in := d.input(t, firmware(t), set)
	demand(t, "accepted", in)
	c := appraise.Appraise(in).Claims()
	if boot := slices.Collect(set.Boots())[0]; !c.Kernel.Accepted || c.Kernel.CommandLine != boot.CommandLine || c.Kernel.Initrd != boot.Initrd384.String() || c.Kernel.Lockdown != "confidentiality" ||
		c.TEE.LaunchName != "ovmf-1" || !slices.Contains(c.Kernel.Guarantees, "initrd-bound") || c.Assurance != "tee-vm" {
		t.Errorf("kernel %+v, TEE %+v", c.Kernel, c.TEE)
	}
	host, _ := onStage(t).input(t, "packaged")
	host.CodeSets = []*refval.CodeSet{set}
	demand(t, "the machine with a TPM", host)

	refused := func(what string, in appraise.Input, where string) {
		t.Helper()
		f := first(demand(t, what, in, keystead.ReasonBootUnaccepted))
		if !strings.Contains(f.Where, where) || appraise.Appraise(in).Claims().Kernel.Accepted {
			t.Errorf("%s: %v", what, f)
		}
	}
	other := keystead.Sum384([]byte("other"))
	refused("firmware that no code set names", d.input(t, set), "launch measurement")
	refused("a launch measurement that is another machine's image", d.input(t, set, must(set.WithLaunches(refval.Launch{Name: "guest", Digest: launch, Image: true}))), "launch measurement")
	refused("another kernel", d.input(t, firmware(t), d.bootsOf(t, func(b *refval.Boot) { b.Kernel384 = other })), "kernel (RTMR 1, event ")
	refused("another initrd", d.input(t, firmware(t), d.bootsOf(t, func(b *refval.Boot) { b.Initrd384 = other })), "initrd (RTMR 2, event ")
	refused("another command line", d.input(t, firmware(t), d.bootsOf(t, func(b *refval.Boot) { b.CommandLine += " init=/bin/sh" })), "command line (RTMR 2, event ")
	if f := first(appraise.Appraise(d.input(t, firmware(t), d.bootsOf(t, func(b *refval.Boot) { b.CommandLine += " init=/bin/sh" }))).Findings()); !strings.Contains(f.Got, `"initrd=\\initrd.img root=/dev/vda`) {
		t.Errorf("the command line is not told as text: %v", f)
	}
	refused("a kernel that is known by SHA-256 alone", d.input(t, firmware(t), d.bootsOf(t, func(b *refval.Boot) { b.Kernel384 = keystead.Measured{} })), "kernel (RTMR 1, event ")
	refused("an initrd that the host could leave out", d.input(t, firmware(t), d.bootsOf(t, func(b *refval.Boot) { b.Guarantees = b.Guarantees[:1] })), "initrd (RTMR 2, event ")
	refused("loaders that no code set names", d.input(t, firmware(t), must(refval.NewCodeSet("bare", nil, slices.Collect(set.Boots())))), "loaded before the kernel (RTMR 1, event ")
	without := d.input(t, firmware(t), set)
	without = withTEE(t, without, func(e *evidence.TEE) { e.Log = nil })
	refused("no log", without, "launch measurement")
}

// TestLongBank: a TPM that quotes the bank SHA-384 alone is judged by the digests of
// SHA-384, and by no others.
func TestLongBank(t *testing.T) {
	d := recordedTD(t)
	in := newForger(t).input(t, machine{bank: evidence.SHA384})
	demand(t, "by SHA-256", in, keystead.ReasonBootUnaccepted, keystead.ReasonBootUnaccepted)
	in.CodeSets = []*refval.CodeSet{d.bootsOf(t, nil)}
	demand(t, "by both", in)
	if k := appraise.Appraise(in).Claims().Kernel; !k.Accepted || !strings.HasPrefix(k.Initrd, "sha384:") {
		t.Errorf("%+v", k)
	}
}

// TestTDExtended: whoever runs in the guest can extend its registers. What was measured
// first stays among what has to be accepted.
func TestTDExtended(t *testing.T) {
	d := recordedTD(t)
	set := d.bootsOf(t, nil)
	kernel, stub := d.log[d.find(t, 2, eventlog.EFIApplication)], d.find(t, 3, eventlog.EventTag)
	options, initrd := d.log[stub-1], d.log[stub]
	evil := event(3, uint32(eventlog.EventTag), []byte("evil options"), options[len(options)-34:])
	// The types of events are not covered: what an image's digest is over may stand as a
	// variable's value, or as a command behind a label.
	hidden := func(kind eventlog.Type, before, image []byte) [][]byte {
		e := event(2, uint32(kind), image, append(before, image...))
		return insert(d.log, d.find(t, 2, eventlog.EFIApplication), e)
	}
	image := program("evil")
	variable := append(make([]byte, 16), binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 1), uint64(len(image)))...)
	for what, log := range map[string][][]byte{
		"an evil kernel, and then the good one":                         append(insert(d.log, d.find(t, 2, eventlog.EFIApplication), event(2, uint32(eventlog.EFIApplication), []byte("evil"), []byte("path"))), kernel, options, initrd),
		"an evil kernel as a variable, and then the good one":           hidden(eventlog.EFIVariableBoot, append(variable, 'B', 0), image),
		"an evil kernel as a command, and then the good one":            hidden(eventlog.IPL, []byte("grub_cmd: "), image),
		"an evil kernel without a header for DOS, as firmware loads it": hidden(eventlog.EFIGPT, nil, image[64:]),
		"evil options, and then the good ones":                          append(replace(d.log, stub-1, evil), options, initrd),
		"the good kernel twice":                                         append(slices.Clone(d.log), kernel),
		"options and initrd twice":                                      append(slices.Clone(d.log), options, initrd),
		"a file that a loader read":                                     insert(d.log, stub-1, event(3, uint32(eventlog.IPL), []byte("module"), []byte("/evil.mod"))),
		"an event whose data says that it is text, and its hash not":    append(slices.Clone(d.log), event(2, uint32(eventlog.EFIAction), []byte("MZ evil"), []byte("MZ evil"))),
	} {
		changed := &td{d.intel, log}
		f := demand(t, what, changed.input(t, firmware(t), set), keystead.ReasonBootUnaccepted)
		if len(f) > 0 && !strings.Contains(f[0].Where, "RTMR") {
			t.Errorf("%s: %v", what, f)
		}
	}
}

func insert(log [][]byte, at int, e []byte) [][]byte { return slices.Insert(slices.Clone(log), at, e) }

func replace(log [][]byte, at int, e []byte) [][]byte {
	log = slices.Clone(log)
	log[at] = e
	return log
}

// kernelDeb is a Debian package with a kernel and its initrd, which is what the digests of
// a set for the boot are computed from.
func kernelDeb(t testing.TB, version string) (set *refval.Set, kernel, initrd []byte) {
	t.Helper()
	kernel, initrd = program(version), []byte("initrd of "+version)
	raw := debrepo.Deb(".gz", tar.Header{Name: "./boot/vmlinuz-" + version, Typeflag: tar.TypeReg, Mode: 0o644, Uname: string(kernel)},
		tar.Header{Name: "./boot/initrd.img-" + version, Typeflag: tar.TypeReg, Mode: 0o644, Uname: string(initrd)})
	p := deb.Package{Name: deb.Name{Package: "linux-image-" + version, Version: version, Architecture: "amd64"}, Filename: "k.deb", Size: int64(len(raw)), Digest: keystead.Sum(raw)}
	files := must(deb.Unpack(raw, p, deb.DefaultLimits))
	b := refval.NewBuilder(refval.SelectBoot)
	offers := []refval.Repository{{Origin: "Debian", Suite: "stable", Codename: "bookworm", Release: keystead.Sum([]byte("release")), Signers: []string{"0123456789ABCDEF0123456789ABCDEF01234567"}}}
	if err := b.Add(refval.Package{Name: p.Package, Version: p.Version, Architecture: p.Architecture, Digest: p.Digest, Strength: refval.StrengthRepositoryRehash}, offers, deb.Select(files, refval.SelectBoot)); err != nil {
		t.Fatal(err)
	}
	return must(b.Set()), kernel, initrd
}

// program is an EFI program with some content of its own.
func program(content string) []byte {
	b := make([]byte, 512)
	copy(b, "MZ")
	b[60] = 64
	copy(b[64:], "PE\x00\x00")
	b[64+24], b[64+25] = 0x0b, 0x02
	return append(b, content...)
}

// TestTDPackagedBoot: a kernel and an initrd of a Debian package are accepted of a TD as
// the package's, so that an update needs no new code set; and not those of another.
func TestTDPackagedBoot(t *testing.T) {
	set, kernel, initrd := kernelDeb(t, "6.12.9-amd64")
	newer, _, _ := kernelDeb(t, "6.12.10-amd64")
	codes := must(refval.NewCodeSet("fleet", nil, []refval.Boot{{Name: "debian", KernelPackage: "linux-image-*", InitrdPackage: "linux-image-*", CommandLine: "BOOT_IMAGE=/boot/vmlinuz-${version} quiet",
		Guarantees: []refval.Guarantee{refval.GuaranteeInitrdBound}}}))
	codes = must(codes.WithLaunches(refval.Launch{Name: "ovmf-1", Digest: launch}))
	_, image, err := authenticode.Digests(kernel)
	if err != nil {
		t.Fatal(err)
	}
	d := recordedTD(t)
	stub := d.find(t, 3, eventlog.EventTag)
	loaded := event(2, uint32(eventlog.EFIApplication), nil, []byte("path"))
	copy(loaded[12+2+32+2:], image.Bytes())
	booted := &td{d.intel, [][]byte{d.log[0], loaded, remeasured(d.log[stub-1], utf16le("BOOT_IMAGE=/boot/vmlinuz-6.12.9-amd64 quiet")), remeasured(d.log[stub], initrd)}}
	in := booted.input(t, codes)
	in.References = []*refval.Set{set}
	demand(t, "as the package ships it", in)
	if c := appraise.Appraise(in).Claims(); c.Kernel.CommandLine != "BOOT_IMAGE=/boot/vmlinuz-6.12.9-amd64 quiet" || !slices.Equal(c.Boot.Packages, []string{"linux-image-6.12.9-amd64=6.12.9-amd64"}) {
		t.Errorf("kernel %+v, packages %v", c.Kernel, c.Boot.Packages)
	}
	in.References = []*refval.Set{newer}
	demand(t, "of a package that no set has", in, keystead.ReasonBootUnaccepted)
	in.References = []*refval.Set{offered(t, refval.SelectAll, map[string]keystead.Digest{"linux-image-6.12.9-amd64 /boot/vmlinuz-6.12.9-amd64": image.Name()})}
	demand(t, "of a set of files", in, keystead.ReasonBootUnaccepted)
}

// remeasured is an event of other content.
func remeasured(e, content []byte) []byte {
	le := binary.LittleEndian
	return event(le.Uint32(e), le.Uint32(e[4:]), content, e[12+2+32+2+48+4:])
}

func utf16le(s string) (b []byte) {
	for _, c := range s {
		b = append(b, byte(c), 0)
	}
	return b
}

// TestNamesAreNoFiles: reference sets name a digest of SHA-384 by that of its text. A file
// that holds the text is not the program.
func TestNamesAreNoFiles(t *testing.T) {
	set, kernel, _ := kernelDeb(t, "6.12.9-amd64")
	_, image, err := authenticode.Digests(kernel)
	if err != nil {
		t.Fatal(err)
	}
	text := keystead.Sum([]byte(image.String()))
	in := newForger(t).input(t, machine{ima: [][]byte{measured("sha256", text[:], "/usr/bin/true-text")}})
	in.References = append(slices.Clone(in.References), set)
	demand(t, "a file with the digest's text", in, keystead.ReasonFileUnknown)
}
