// Package testbed builds a Debian guest from Debian's packages and boots it under
// plain emulation with UEFI firmware and a software TPM, so that tests can have a
// real measured boot and do to it what an attacker would do.
//
//	bed, err := testbed.Build(ctx, testbed.Options{Cache: "build/guest"})
//	defer bed.Close()
//	guest, err := bed.Start(ctx, authority, nil)
//	defer guest.Close()
//	said, err := guest.Run(ctx, "whoami")
//	err = guest.Reboot(ctx, testbed.Boot{Append: "quiet"})
//
// A [Domain] is three nodes outside of the guest, on this machine, for an agent inside,
// and a [Mirror] serves packages to it.
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
