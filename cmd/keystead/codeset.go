package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/authenticode"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/refval"
)

// maxProgram bounds a file that a code set names, in bytes.
const maxProgram = 4 << 30

// codeset: files and ways to boot that no distribution signs.
func (a *app) codeset() *cobra.Command {
	return a.Noun("codeset", "Write and sign code sets: own programs, and how a machine may boot",
		`A code set is the second source of reference values beside packages: digests of programs that
are in no distribution, and boot entries of kernel, initrd and command line that belong together.
A member signs it, and answers for what it says. docs/spec/codeset.md describes it.`,
		`  keystead codeset build --name fleet --file-version 1.0 --file /usr/local/bin/agent > fleet.txt
  keystead codeset sign --key ops.key fleet.txt > fleet.signed`,
		a.codesetBuild(),
		a.codesetSign(),
	)
}

func (a *app) codesetBuild() *cobra.Command {
	var name, version, boot, cmdline string
	var kernel, initrd bootPart
	var files, loaders, packages, guarantees, vendors, imaKeys, firmware, images []string
	c := &cobra.Command{
		Use:   "build --name NAME",
		Short: "Compute a code set from files",
		Long: `Reads the files, computes their digests and prints the code set's text. A file is PATH, or
PATH=INSTALLED when it lies elsewhere on the host. Kernel and loaders (shim, GRUB, systemd-boot) are
EFI programs and are named by their Authenticode digest, as firmware measures them. The command line
is the whole of it as the kernel gets it (/proc/cmdline). A guarantee is your word for what the
initrd enforces: ima-policy, ptrace-scope-3; or that the kernel starts no system without it, which
TDs need: initrd-bound. What is measured is named by SHA-256 and SHA-384, for registers of either.

Of confidential machines the launch measurement (tee.launch of keystead evidence verify) is named:
firmware is one of firmware alone, which measures what it starts (a TD's); an image is one that
covers all that starts, and is a boot by itself (SEV-SNP with hashes of kernel and initrd, Nitro,
SGX).

Kernel, initrd and loaders may also be whatever a package ships as such (--kernel-package): a
package's name, or what names begin with and an asterisk. Verifiers then know them by reference sets
(keystead refval build --efi for kernels and loaders), so that an update needs no new code set. In
the command line ${version} stands for what follows vmlinuz- in the kernel's name.

A vendor is who may sign packages of a format (deb, rpm, apk), and which: names, or what names begin
with and an asterisk. The key is a file of OpenPGP certificates or, of apk, of an RSA public key.
The headers in an rpm host's own database count as far as a vendor signed them. An IMA key names
the files that it signed (evmctl); it is a public key or an X.509 certificate, PEM or DER.`,
		Example: `  keystead codeset build --name fleet --file-version 1.0 --file agent=/usr/bin/agent > fleet.txt
  keystead codeset build --name boot --boot debian-12 --kernel vmlinuz --initrd initrd.img \
      --cmdline root=/dev/vda --guarantee ima-policy --guarantee ptrace-scope-3 > boot.txt
  keystead codeset build --name boot --boot debian --kernel-package linux-image-* \
      --initrd-package fleet-initrd --cmdline root=/dev/vda \
      --loader-package shim-signed --loader-package grub-efi-amd64-signed > boot.txt
  keystead codeset build --name tee --firmware ovmf-2026.05=sha384:0f3c… > tee.txt`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "`NAME` of the code set")
	f.StringArrayVar(&files, "file", nil, "program `PATH[=INSTALLED]`; may be repeated")
	f.StringVar(&version, "file-version", "", "`VERSION` of the files and loaders")
	f.StringArrayVar(&loaders, "loader", nil, "EFI program `PATH[=INSTALLED]` that runs before the kernel; may be repeated")
	f.StringVar(&boot, "boot", "", "`NAME` of a boot entry")
	f.StringArrayVar(&packages, "loader-package", nil, "`PACKAGE` whose EFI programs may run before the kernel; may be repeated")
	f.StringVar(&kernel.file, "kernel", "", "the entry's kernel or unified image `FILE`")
	f.StringVar(&kernel.pkg, "kernel-package", "", "`PACKAGE` that ships the entry's kernel")
	f.StringVar(&initrd.file, "initrd", "", "the entry's initrd `FILE`")
	f.StringVar(&initrd.pkg, "initrd-package", "", "`PACKAGE` that ships the entry's initrd")
	f.StringVar(&cmdline, "cmdline", "", "the entry's command `LINE`")
	f.StringArrayVar(&guarantees, "guarantee", nil, "what the initrd enforces; may be repeated")
	f.StringArrayVar(&vendors, "vendor", nil, "who may sign packages: `NAME:FORMAT:PACKAGE[,PACKAGE]:FILE`; may be repeated")
	f.StringArrayVar(&imaKeys, "ima-key", nil, "whose IMA signatures name files: `NAME:FILE`; may be repeated")
	f.StringArrayVar(&firmware, "firmware", nil, "launch measurement of firmware: `NAME=DIGEST`; may be repeated")
	f.StringArrayVar(&images, "image", nil, "launch measurement of all that starts: `NAME=DIGEST`; may be repeated")
	cli.Must(c.MarkFlagRequired("name"))
	c.MarkFlagsMutuallyExclusive("kernel", "kernel-package")
	c.MarkFlagsMutuallyExclusive("initrd", "initrd-package")
	c.RunE = func(*cobra.Command, []string) error {
		var codes []refval.Code
		for _, path := range files {
			code, content, err := codeOf(path, version)
			if err != nil {
				return err
			}
			code.Digest = keystead.Sum(content)
			codes = append(codes, code)
		}
		for _, path := range loaders {
			code, content, err := codeOf(path, version)
			if err != nil {
				return err
			}
			long := code
			if code.Digest, long.Digest384, err = authenticode.Digests(content); err != nil {
				return cli.Misuse(fmt.Errorf("%s: %w", path, err), "loaders are EFI programs")
			}
			codes = append(codes, code, long)
		}
		var boots []refval.Boot
		if (boot == "") != kernel.isZero() {
			return cli.Misuse(errors.New("a boot entry is a name and a kernel"), "--boot NAME with --kernel FILE or --kernel-package PACKAGE")
		}
		if boot != "" {
			b, err := bootOf(boot, kernel, initrd, cmdline, guarantees)
			if err != nil {
				return err
			}
			boots = append(boots, b)
		}
		launches, err := launchesOf(firmware, images, guarantees)
		if err != nil {
			return err
		}
		if len(codes)+len(boots)+len(packages)+len(vendors)+len(imaKeys)+len(launches) == 0 {
			return cli.Misuse(errors.New("the code set would be empty"), "--file, --loader, --boot, --vendor, --firmware and --image say what goes into it")
		}
		set, err := refval.NewCodeSet(name, codes, boots, packages...)
		if err != nil {
			return cli.Misuse(err, "docs/spec/codeset.md describes the format")
		}
		if set, err = trusting(set, vendors, imaKeys); err != nil {
			return err
		}
		if set, err = set.WithLaunches(launches...); err != nil {
			return cli.Misuse(err, "docs/spec/codeset.md describes the format")
		}
		return a.answerCodeSet(set, []byte(set.Text()))
	}
	return c
}

// codeOf reads PATH[=INSTALLED]; its digests are the caller's to compute.
func codeOf(spec, version string) (code refval.Code, content []byte, err error) {
	path, installed, moved := strings.Cut(spec, "=")
	if content, err = cli.ReadFile(path, maxProgram); err != nil {
		return code, nil, err
	}
	if !moved {
		if installed, err = filepath.Abs(path); err != nil {
			return code, nil, err
		}
	}
	if version == "" {
		return code, nil, cli.Misuse(errors.New("files need a version"), "--file-version gives it")
	}
	return refval.Code{Path: installed, Version: version}, content, nil
}

// launchesOf reads launch measurements, NAME=DIGEST each. Guarantees are of each image.
func launchesOf(firmware, images, guarantees []string) (out []refval.Launch, err error) {
	for i, spec := range append(slices.Clone(firmware), images...) {
		name, digest, _ := strings.Cut(spec, "=")
		l := refval.Launch{Name: name, Image: i >= len(firmware)}
		if l.Digest, err = keystead.ParseMeasured(digest); err != nil {
			return nil, cli.Misuse(fmt.Errorf("%.80q: %w", spec, err), "NAME=DIGEST, where the digest is tee.launch of keystead evidence verify")
		}
		if l.Image {
			l.Guarantees = guaranteesOf(guarantees)
		}
		out = append(out, l)
	}
	return out, nil
}

func guaranteesOf(words []string) (out []refval.Guarantee) {
	for _, w := range words {
		out = append(out, refval.Guarantee(w))
	}
	return out
}

// bootPart is a kernel or an initrd: a file, or whatever a package ships as such.
type bootPart struct{ file, pkg string }

func (p bootPart) isZero() bool { return p == bootPart{} }

func bootOf(name string, kernel, initrd bootPart, cmdline string, guarantees []string) (refval.Boot, error) {
	b := refval.Boot{Name: name, CommandLine: cmdline, KernelPackage: kernel.pkg, InitrdPackage: initrd.pkg}
	if kernel.file != "" {
		image, err := cli.ReadFile(kernel.file, maxProgram)
		if err != nil {
			return b, err
		}
		if b.Kernel, b.Kernel384, err = authenticode.Digests(image); err != nil {
			return b, cli.Misuse(fmt.Errorf("%s: %w", kernel.file, err), "the kernel is an EFI program, such as /boot/vmlinuz")
		}
	}
	if initrd.file != "" {
		content, err := cli.ReadFile(initrd.file, maxProgram)
		if err != nil {
			return b, err
		}
		b.Initrd, b.Initrd384 = keystead.Sum(content), keystead.Sum384(content)
	}
	b.Guarantees = guaranteesOf(guarantees)
	return b, nil
}

func (a *app) answerCodeSet(set *refval.CodeSet, text []byte) error {
	answer := struct {
		Name   string          `json:"name"`
		Digest keystead.Digest `json:"digest"`
		Text   string          `json:"text"`
	}{set.Name(), set.Digest(), string(text)}
	return a.Answer(answer, func(w io.Writer) { w.Write(text) })
}

func (a *app) codesetSign() *cobra.Command {
	var keyFile string
	c := &cobra.Command{
		Use:   "sign --key FILE CODESET",
		Short: "Sign a code set with a member's key",
		Long: `Parses the code set, signs its text, and prints the signed note. Signatures that it carries
already are kept; they are not verified here.`,
		Example: `  keystead codeset sign --key ops.key fleet.txt > fleet.signed`,
		Args:    cli.Arguments("CODESET"),
	}
	c.Flags().StringVar(&keyFile, "key", "", "`FILE` with the member's private key")
	cli.Must(c.MarkFlagRequired("key"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		m, err := cli.ReadMember(keyFile)
		if err != nil {
			return err
		}
		text, err := cli.ReadFile(args[0], refval.MaxCodeSet)
		if err != nil {
			return err
		}
		var set *refval.CodeSet
		signed, err := cli.SignChecked(m, text, func(bare []byte) (err error) {
			set, err = refval.ParseCodeSet(string(bare))
			return err
		})
		if err != nil {
			return cli.Misuse(fmt.Errorf("%s: %w", args[0], err), "keystead codeset build writes code sets")
		}
		return a.answerCodeSet(set, signed)
	}
	return c
}
