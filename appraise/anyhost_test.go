package appraise_test

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/refval"
)

// fleet is what one verifier accepts: one policy, one list of code sets, one of reference
// sets, for machines of every kind.
type fleet struct {
	policy *policy.Policy
	codes  []*refval.CodeSet
	refs   []*refval.Set
}

const kernelRule = `
rule kernel-package
  require tee.kind in ["sev-snp", "sgx", "nitro"] || boot.packages.exists(p, p.startsWith("` + kernelPackage + `="))
  otherwise boot a kernel of the distribution
`

// newFleet accepts the recorded kernel as a package's, by both digests, the foundry's
// launch measurements, and nothing else. The recorded machine has no Secure Boot, and a
// software TPM whose authority stands for a vendor's: the policy is any-host without that.
func newFleet(t testing.TB, d *td, amd *foundry.AMD) fleet {
	t.Helper()
	codes := d.bootsOf(t, packagedKernel)
	codes = must(codes.WithLaunches(refval.Launch{Name: "ovmf-1", Digest: launch}, refval.Launch{Name: "guest-1", Digest: amdLaunch(amd), Image: true},
		refval.Launch{Name: "enclave-1", Digest: keystead.MeasuredBytes(bytes.Repeat([]byte{0xEC}, 32)), Image: true}))
	recorded := slices.Collect(record().codes.Boots())[0]
	kernel := kernelPackage + " /boot/vmlinuz-" + strings.Fields(recorded.CommandLine)[0]
	long := digest384(d.log[d.find(t, 2, eventlog.EFIApplication)])
	text := strings.Replace(string(shipped(t, "any-host").Text()), "boot.secure_boot && ", "", 1) + kernelRule
	return fleet{compile(t, text), []*refval.CodeSet{codes},
		[]*refval.Set{offered(t, refval.SelectBoot, map[string]keystead.Digest{kernel: recorded.Kernel}), offered(t, refval.SelectBoot, map[string]keystead.Digest{kernel: long.Name()})}}
}

// packagedKernel lets a package name the kernel.
func packagedKernel(b *refval.Boot) {
	b.KernelPackage, b.Kernel, b.Kernel384 = "linux-image-*", keystead.Digest{}, keystead.Measured{}
}

// amdLaunch is the launch measurement of the foundry's SNP guests.
func amdLaunch(amd *foundry.AMD) keystead.Measured {
	return keystead.MeasuredBytes(amd.Report([64]byte{}, nil)[foundry.SNPMeasurement:][:48])
}

// of puts evidence before the fleet's verifier.
func (f fleet) of(in appraise.Input) appraise.Input {
	in.Policy, in.CodeSets, in.References = f.policy, f.codes, append(slices.Clone(in.References), f.refs...)
	return in
}

// TestOnePolicy: one policy, with one list of code sets and one of reference sets, admits a
// machine with a TPM, an SNP guest and a TD, and an enclave whose image is named; and where
// firmware, kernel or packages differ it says by which rule.
func TestOnePolicy(t *testing.T) {
	d, amd, aws, data := recordedTD(t), foundry.NewAMD(1), foundry.NewAWS(), question.ReportData(nil)
	f := newFleet(t, d, amd)
	machine := func(edit func(*evidence.Parts)) appraise.Input {
		in := onStage(t).edited(t, edit)
		in.EKRoots.Hardware, in.EKRoots.Test = []*x509.Certificate{onStage(t).ca.Root}, nil
		return f.of(in)
	}
	guest := func(edit func([]byte)) appraise.Input {
		item := evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(data, edit), Certificates: amd.Certificates()}
		return f.of(forged(t, item, amd.Roots(), "", amd.Pieces(false)...))
	}
	enclave := func(edit func([]byte)) appraise.Input {
		item := evidence.TEE{Kind: evidence.KindSGX, Report: d.intel.Quote(data, foundry.Quoting{Version: 3, Edit: edit})}
		return f.of(forged(t, item, d.intel.Roots(), "", d.intel.Pieces(foundry.World{})...))
	}
	kernel := d.find(t, 2, eventlog.EFIApplication)
	evil := event(2, uint32(eventlog.EFIApplication), []byte("another kernel"), []byte("path"))
	unknownFirmware := f.of(d.input(t))
	unknownFirmware.CodeSets = []*refval.CodeSet{d.bootsOf(t, packagedKernel)}
	unpackaged := machine(func(*evidence.Parts) {})
	unpackaged.References = unpackaged.References[:len(unpackaged.References)-len(f.refs)]
	nothingNamed := machine(func(*evidence.Parts) {})
	nothingNamed.References = f.refs
	for _, tc := range []struct {
		what  string
		in    appraise.Input
		rules []string // that are not met; none: admitted
	}{
		{"a machine with a TPM", machine(func(*evidence.Parts) {}), nil},
		{"an SNP guest", guest(nil), nil},
		{"a TD", f.of(d.input(t)), nil},
		{"an SGX enclave", enclave(nil), nil},
		{"another SGX enclave", enclave(func(b []byte) { b[64] ^= 1 }), []string{"firmware-known", "kernel-known"}},
		{"a TD with other firmware", unknownFirmware, []string{"firmware-known", "kernel-known"}},
		{"a TD with another kernel", f.of((&td{d.intel, replace(d.log, kernel, evil)}).input(t)), []string{"kernel-known", "kernel-package"}},
		{"a machine with a kernel of no package", unpackaged, []string{"kernel-known", "kernel-package"}},
		{"a machine with files of no package", nothingNamed, []string{"software-known"}},
		{"an SNP guest with another image", guest(func(b []byte) { b[foundry.SNPMeasurement] ^= 1 }), []string{"firmware-known", "kernel-known"}},
		{"an enclave that nobody named", f.of(forged(t, evidence.TEE{Kind: evidence.KindNitro, Report: aws.Document(question.Nonce, data[:], nil)}, aws.Roots(), "")), []string{"firmware-known", "kernel-known"}},
	} {
		v := appraise.Appraise(tc.in)
		var failed []string
		for _, found := range v.Findings() {
			if found.Reason == keystead.ReasonRuleFailed {
				failed = append(failed, strings.TrimPrefix(found.Where, "rule "))
			}
		}
		if !slices.Equal(failed, tc.rules) || v.Allowed() != (tc.rules == nil) {
			t.Errorf("%s: want rules %q not met, got %q of %v", tc.what, tc.rules, failed, v.Findings())
		}
	}
}
