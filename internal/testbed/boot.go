package testbed

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// CommandLine is the kernel command line that a guest boots with. The boot loader
// puts the initrd's path before it.
const CommandLine = `initrd=\initrd.img ` + options

const options = "root=/dev/vda rw console=ttyS0 panic=-1 lockdown=confidentiality ima_hash=sha256"

const (
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Boot says how a guest boots, where that is not as its code set says.
type Boot struct {
	Append string // to the kernel's command line, after a space
	Other  bool   // the bed's other kernel, with its initrd
}

// prepare lays out the EFI system partition.
func (g *Guest) prepare(o Boot) error {
	line := options
	if o.Append != "" {
		line += " " + o.Append
	}
	files := map[string][]byte{
		"esp/loader/loader.conf":          []byte("timeout 0\n"),
		"esp/loader/entries/testbed.conf": []byte("title testbed\nlinux /vmlinuz\ninitrd /initrd.img\noptions " + line + "\n"),
	}
	image := g.bed.Image
	if o.Other {
		image = g.bed.Other
	}
	for to, from := range map[string]string{"esp/EFI/BOOT/BOOTX64.EFI": g.bed.Loader, "esp/vmlinuz": image.Kernel, "esp/initrd.img": image.Initrd, "vars.fd": firmwareVars} {
		if _, err := os.Stat(g.at(to)); err == nil && to == "vars.fd" {
			continue // the firmware's variables stay
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		files[to] = content
	}
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(g.at(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(g.at(name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// emulate runs the software TPM and the machine until the machine powers off or resets.
func emulate(ctx context.Context, at func(string) string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket := at("tpm.sock")
	if err := removeIfThere(socket); err != nil {
		return err
	}
	tpm := command(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+at("tpm"), "--ctrl", "type=unixio,path="+socket, "--terminate")
	var said bytes.Buffer
	tpm.Stdout, tpm.Stderr = &said, &said
	if err := tpm.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- tpm.Wait() }()
	if err := await(ctx, ended, func() error { return listening(socket) }); err != nil {
		cancel()
		return fmt.Errorf("swtpm: %w\n%s", err, lastLines(said.Bytes(), 5))
	}
	err := run(ctx, machine(ctx, at))
	cancel() // ends the TPM if the machine did not
	<-ended
	return err
}

// listening reports, by an error or none, whether a process of this machine listens at a
// Unix socket, without a connection: swtpm ends with its first one.
func listening(path string) error {
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err
	}
	const flags, acceptConnections = 3, "00010000" // proc(5); __SO_ACCEPTCON
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) == 8 && f[7] == path && f[flags] == acceptConnections {
			return nil
		}
	}
	return fmt.Errorf("nobody listens at %s", path)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
