package appraise_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

const (
	kernelPackage = "linux-image-6.12.9-amd64"
	loaderPackage = "boot-loader-signed"
	initrdPackage = "fleet-initrd"
)

// offered is a set of one selection that offers each of the files, by package and path.
func offered(t testing.TB, s refval.Selection, files map[string]keystead.Digest) *refval.Set {
	t.Helper()
	b := refval.NewBuilder(s)
	offers := []refval.Repository{{Origin: "Debian", Suite: "stable", Codename: "bookworm", Release: keystead.Sum([]byte("release")), Signers: []string{"0123456789ABCDEF0123456789ABCDEF01234567"}}}
	for name, digest := range files {
		pkg, file, _ := strings.Cut(name, " ")
		p := refval.Package{Name: pkg, Version: "6.12.9-1", Architecture: "amd64", Digest: keystead.Sum([]byte(pkg)), Strength: refval.StrengthRepositoryRehash}
		if err := b.Add(p, offers, []refval.File{{Path: file, Digest: digest}}); err != nil {
			t.Fatal(err)
		}
	}
	set, err := b.Set()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestPackagedBoot: kernel, loader and initrd are known by the packages that ship them,
// so that an update that the distribution signed needs no new code set.
func TestPackagedBoot(t *testing.T) {
	recorded := slices.Collect(record().codes.Boots())[0]
	loader := record().codes.Files()[0] // the only one
	word := strings.Fields(recorded.CommandLine)[0]
	entry := refval.Boot{Name: "any", KernelPackage: "linux-image-*", InitrdPackage: initrdPackage, Guarantees: recorded.Guarantees,
		CommandLine: strings.Replace(recorded.CommandLine, word, "${version}", 1)}
	kernel, boot, initrd := kernelPackage+" /boot/vmlinuz-"+word, loaderPackage+" /usr/lib/boot/loader.efi", initrdPackage+" /boot/initrd.img"
	efi := map[string]keystead.Digest{kernel: recorded.Kernel, boot: loader.Digest}
	files := map[string]keystead.Digest{initrd: recorded.Initrd}
	for what, tc := range map[string]struct {
		entry      refval.Boot
		loaders    []string
		efi, files map[string]keystead.Digest
		mixed      bool // the kernel's digest stands in a set of files
		accepted   bool
	}{
		"as shipped":                         {entry: entry, loaders: []string{loaderPackage}, efi: efi, files: files, accepted: true},
		"a loader that no code set lets run": {entry: entry, efi: efi, files: files},
		"a loader of another package":        {entry: entry, loaders: []string{"shim-signed"}, efi: efi, files: files},
		"no package ships the kernel":        {entry: entry, loaders: []string{loaderPackage}, efi: map[string]keystead.Digest{boot: loader.Digest}, files: files},
		"another package ships the kernel":   {entry: entry, loaders: []string{loaderPackage}, efi: map[string]keystead.Digest{"memtest /boot/vmlinuz-" + word: recorded.Kernel, boot: loader.Digest}, files: files},
		"it is no kernel":                    {entry: entry, loaders: []string{loaderPackage}, efi: map[string]keystead.Digest{kernelPackage + " /usr/lib/shell.efi": recorded.Kernel, boot: loader.Digest}, files: files},
		"a kernel of another version":        {entry: entry, loaders: []string{loaderPackage}, efi: map[string]keystead.Digest{kernelPackage + " /boot/vmlinuz-other": recorded.Kernel, boot: loader.Digest}, files: files},
		"no package ships the initrd":        {entry: entry, loaders: []string{loaderPackage}, efi: efi},
		"a program ships as the initrd":      {entry: entry, loaders: []string{loaderPackage}, efi: efi, files: map[string]keystead.Digest{initrdPackage + " /usr/bin/initrdtool": recorded.Initrd}},
		"the kernel by the digest of a file": {entry: entry, loaders: []string{loaderPackage}, efi: map[string]keystead.Digest{boot: loader.Digest}, files: map[string]keystead.Digest{initrd: recorded.Initrd, kernel: recorded.Kernel}},
		"the initrd by an EFI program's":     {entry: entry, loaders: []string{loaderPackage}, efi: map[string]keystead.Digest{kernel: recorded.Kernel, boot: loader.Digest, initrd: recorded.Initrd}},
	} {
		in, _ := onStage(t).input(t, "packaged")
		codes, err := refval.NewCodeSet("fleet", nil, []refval.Boot{tc.entry}, tc.loaders...)
		if err != nil {
			t.Fatal(err)
		}
		in.CodeSets = []*refval.CodeSet{codes}
		in.References = append(slices.Clone(in.References), offered(t, refval.SelectEFI, tc.efi), offered(t, refval.SelectAll, tc.files))
		if !tc.accepted {
			demand(t, what, in, keystead.ReasonBootUnaccepted, keystead.ReasonBootUnaccepted)
			continue
		}
		v := appraise.Appraise(in)
		c := v.Claims()
		if !v.Allowed() || c.Kernel.CommandLine != recorded.CommandLine || c.Kernel.Initrd != recorded.Initrd.String() || !slices.Equal(c.Boot.Packages, []string{loaderPackage + "=6.12.9-1", kernelPackage + "=6.12.9-1"}) {
			t.Errorf("%s: %v, kernel %+v, packages %q", what, v.Err(), c.Kernel, c.Boot.Packages)
		}
	}
}

// TestPackagedBootFloors: a kernel, loader or initrd of a package below a floor, or of no
// accepted vendor, is no accepted boot, though a set still names it and the host's list
// tells of a newer version.
func TestPackagedBootFloors(t *testing.T) {
	recorded := slices.Collect(record().codes.Boots())[0]
	loader := record().codes.Files()[0]
	word := strings.Fields(recorded.CommandLine)[0]
	entry := refval.Boot{Name: "any", KernelPackage: kernelPackage, InitrdPackage: initrdPackage, Guarantees: recorded.Guarantees,
		CommandLine: strings.Replace(recorded.CommandLine, word, "${version}", 1)}
	efi := map[string]keystead.Digest{kernelPackage + " /boot/vmlinuz-" + word: recorded.Kernel, loaderPackage + " /usr/lib/boot/loader.efi": loader.Digest}
	sets := []*refval.Set{offered(t, refval.SelectEFI, efi), offered(t, refval.SelectAll, map[string]keystead.Digest{initrdPackage + " /boot/initrd.img": recorded.Initrd})}
	packaged := func(vendors ...refval.Vendor) appraise.Input {
		in, _ := onStage(t).input(t, "packaged")
		codes := must(refval.NewCodeSet("fleet", nil, []refval.Boot{entry}, loaderPackage))
		in.CodeSets = []*refval.CodeSet{must(codes.WithTrust(vendors, nil))}
		in.References = append(slices.Clone(in.References), sets...)
		return in
	}
	floored := func(lines string) *policy.Policy {
		return compile(t, strings.Replace(named, "rules none\n", lines+"rules none\n", 1))
	}
	demand(t, "without a floor", packaged())
	for _, pkg := range []string{kernelPackage, loaderPackage, initrdPackage} {
		in := packaged()
		in.Policy = floored("floor deb " + pkg + " 6.12.9-1\n")
		demand(t, pkg+" at the floor", in)
		in.Policy = floored("floor deb " + pkg + " 6.12.10-1\n")
		findings := demand(t, pkg+" below the floor", in, keystead.ReasonBootUnaccepted, keystead.ReasonPackageOutdated, keystead.ReasonBootUnaccepted)
		if f := findings[1]; f.Want != pkg+" 6.12.10-1 or later" || !strings.HasSuffix(f.Got, "of package "+pkg+" 6.12.9-1") {
			t.Errorf("%s: the finding says %+v", pkg, f)
		}
		if got, want := appraise.Appraise(in).Claims().Packages.Outdated, []string{pkg + "=6.12.9-1"}; pkg != initrdPackage && !slices.Equal(got, want) {
			t.Errorf("claims of outdated packages: %q, want %q", got, want)
		}
	}
	// Another repository's kernel does not pass for the distribution's.
	in := packaged(refval.Vendor{Name: "third-party", Format: refval.FormatDeb, Packages: []string{"acme-*"}, Key: theHost(t).stranger})
	found := appraise.Appraise(in).Findings()
	if n := len(found); !slices.ContainsFunc(found, func(f keystead.Finding) bool {
		return f.Reason == keystead.ReasonPackageForeign && f.Where == "boot" && strings.Contains(f.Got, kernelPackage)
	}) {
		t.Errorf("of no accepted vendor: %d findings, none of them on the kernel's package", n)
	}
}
