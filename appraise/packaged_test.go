package appraise_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
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

// TestPackagedBootFaults: a package that ships what runs before the system counts as any
// other does: by an accepted vendor, and not below the policy's floor.
func TestPackagedBootFaults(t *testing.T) {
	recorded := slices.Collect(record().codes.Boots())[0]
	loader := record().codes.Files()[0] // the only one
	codes := must(refval.NewCodeSet("fleet", nil, []refval.Boot{{Name: "any", KernelPackage: "linux-image-*", InitrdPackage: initrdPackage, Guarantees: recorded.Guarantees, CommandLine: recorded.CommandLine}}, loaderPackage))
	input := func(rules string) appraise.Input {
		in, _ := onStage(t).input(t, "packaged")
		in.CodeSets, in.Policy = []*refval.CodeSet{codes}, compile(t, strings.Replace(named, "rules none\n", rules+"rules none\n", 1))
		in.References = append(slices.Clone(in.References), offered(t, refval.SelectEFI, map[string]keystead.Digest{kernelPackage + " /boot/vmlinuz": recorded.Kernel, loaderPackage + " /usr/lib/boot/loader.efi": loader.Digest}),
			offered(t, refval.SelectAll, map[string]keystead.Digest{initrdPackage + " /boot/initrd.img": recorded.Initrd}))
		return in
	}
	refused := func(what string, in appraise.Input, reason keystead.Reason, where, want string) {
		t.Helper()
		v := appraise.Appraise(in)
		if v.Claims().Kernel.Accepted || !slices.ContainsFunc(v.Findings(), func(f keystead.Finding) bool {
			return f.Reason == reason && f.Where == where && strings.Contains(f.Want, want) && f.Got != ""
		}) {
			t.Errorf("%s: want %s of %s, got %v", what, reason, where, v.Err())
		}
	}
	demand(t, "at the floor", input("floor deb "+kernelPackage+" 6.12.9-1\n"))
	for part, pkg := range map[string]string{"kernel": kernelPackage, "initrd": initrdPackage, "loaded before the kernel": loaderPackage} {
		refused("below the floor", input("floor deb "+pkg+" 6.12.10-1\n"), keystead.ReasonPackageOutdated, part, pkg+" 6.12.10-1 or later")
	}
	in := input("")
	in.CodeSets = []*refval.CodeSet{must(codes.WithTrust([]refval.Vendor{{Name: "third-party", Format: refval.FormatDeb, Packages: []string{"*"}, Key: theHost(t).stranger}}, nil))}
	for _, part := range []string{"kernel", "initrd", "loaded before the kernel"} {
		refused("a package of nobody whom the code set names", in, keystead.ReasonPackageForeign, part, "vendor")
	}
}
