package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// machine is the emulator's command: no hardware virtualisation, no network.
func machine(ctx context.Context, image string, at func(string) string) *exec.Cmd {
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "file:" + at("console"),
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + firmwareCode,
		"-drive", "if=pflash,format=raw,unit=1,file=" + at("vars.fd"),
		"-chardev", "socket,id=tpm,path=" + at("tpm.sock"),
		"-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
	}
	disk := func(serial, drive, device string) {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,format=raw,cache=unsafe,%s", serial, drive),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s%s", serial, serial, device))
	}
	disk("root", "snapshot=on,file="+image, "")
	disk("steps", "readonly=on,file="+at("steps.img"), "")
	disk("results", "file="+at("results.img"), "")
	disk("esp", "readonly=on,file=fat:"+at("esp"), ",bootindex=0")
	cmd := command(ctx, "qemu-system-x86_64", args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+at(".")) // where the snapshot goes
	return cmd
}

// awaitFile waits until path exists, or until the program that should make it ends.
func awaitFile(ctx context.Context, path string, ended <-chan error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("ended before it listened: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
