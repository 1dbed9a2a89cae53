// Package testbed builds a Debian guest from Debian's packages and boots it under
// plain emulation with UEFI firmware and a software TPM, so that tests can have a
// real measured boot and do to it what an attacker would do.
//
//	bed, err := testbed.Build(ctx, testbed.Options{})
//	defer bed.Close()
//	result, err := bed.Boot(ctx, []testbed.Step{{Name: "hello", Script: "whoami"}})
//
// The guest's initrd loads the IMA policy and sets ptrace_scope before the first
// program of the root file system runs; the firmware measures boot loader and
// kernel, the kernel's EFI stub command line and initrd.
//
// It needs root (mmdebstrap, mounts) and what `scripts/need testbed` installs. It
// trusts this machine's apt configuration and keyrings. The software TPM and the
// emulator are under the control of whoever runs them: what comes out exercises
// code and proves nothing about a machine.
package testbed
