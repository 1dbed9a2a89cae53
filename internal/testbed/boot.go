package testbed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CommandLine is the kernel command line that a guest boots with. The boot loader
// puts the initrd's path before it.
const CommandLine = `initrd=\initrd.img ` + options

const options = "root=/dev/vda rw console=ttyS0 panic=-1 lockdown=confidentiality ima_hash=sha256"

const (
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"

	bootLimit   = 5 * time.Minute // whole life of a guest; it takes 30 s on two quiet cores
	resultLimit = 64 << 20        // bytes of the results' disk
)

// Boot starts the guest on a fresh TPM, has it run the steps in order, and returns
// what each left behind. The guest's disk is as it was afterwards. When the guest
// fails, the error holds the end of what it wrote on its serial console.
func (b *Bed) Boot(ctx context.Context, steps []Step) (*Result, error) {
	work, err := os.MkdirTemp("", "keystead-testbed-boot-")
	if err != nil {
		return nil, fmt.Errorf("testbed: %w", err)
	}
	defer os.RemoveAll(work)
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("the guest did not power off within %v", bootLimit))
	defer cancel()
	at := func(name string) string { return filepath.Join(work, name) }
	if err := b.prepare(at, steps); err != nil {
		return nil, fmt.Errorf("testbed: %w", err)
	}
	if err := emulate(ctx, b.image, at); err != nil {
		console, _ := os.ReadFile(at("console")) // what there is of it
		return nil, fmt.Errorf("testbed: %w\nthe guest's console ends:\n%s", err, lastLines(console, 30))
	}
	b.progress("guest: booted, ran %d steps and powered off in %.1f s", len(steps), time.Since(start).Seconds())
	result, err := readResult(at("results.img"), steps)
	if err != nil {
		console, _ := os.ReadFile(at("console"))
		return nil, fmt.Errorf("testbed: %w\nthe guest's console ends:\n%s", err, lastLines(console, 30))
	}
	return result, nil
}

// prepare lays out the EFI system partition and the disks of steps and results.
func (b *Bed) prepare(at func(string) string, steps []Step) error {
	files := map[string][]byte{
		"esp/loader/loader.conf":          []byte("timeout 0\n"),
		"esp/loader/entries/testbed.conf": []byte("title testbed\nlinux /vmlinuz\ninitrd /initrd.img\noptions " + options + "\n"),
		"tpm/.keep":                       nil,
	}
	for to, from := range map[string]string{"esp/EFI/BOOT/BOOTX64.EFI": b.Loader, "esp/vmlinuz": b.Kernel, "esp/initrd.img": b.Initrd, "vars.fd": firmwareVars} {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		files[to] = content
	}
	disk, err := packSteps(steps)
	if err != nil {
		return err
	}
	files["steps.img"] = disk
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at(name), content, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(at("results.img"), nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(at("results.img"), resultLimit)
}

// emulate runs the software TPM and the machine until the machine powers off.
func emulate(ctx context.Context, image string, at func(string) string) error {
	if err := run(ctx, command(ctx, "swtpm_setup", "--tpm2", "--tpmstate", at("tpm"), "--pcr-banks", "sha256,sha384")); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The socket is in place before the TPM answers: the emulator's end is a file
	// descriptor that waits.
	socket := at("tpm.sock")
	tpm := command(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+at("tpm"), "--ctrl", "type=unixio,path="+socket, "--terminate")
	var said bytes.Buffer
	tpm.Stdout, tpm.Stderr = &said, &said
	if err := tpm.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- tpm.Wait() }()
	if err := awaitFile(ctx, socket, ended); err != nil {
		cancel()
		return fmt.Errorf("swtpm: %w\n%s", err, lastLines(said.Bytes(), 5))
	}
	err := run(ctx, machine(ctx, image, at))
	cancel() // ends the TPM if the machine did not
	<-ended
	return err
}
