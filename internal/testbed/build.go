package testbed

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Options say how a guest is built.
type Options struct {
	Packages []string                         // beside the kernel and what boots it
	Cache    string                           // directory for guests that later builds take over while they are a few days old; empty: build afresh and remove on Close
	Progress func(format string, args ...any) // one line a call; may be nil
}

// Bed is a guest that can be booted. Boots do not change it.
type Bed struct {
	Image             // what it boots
	Other      Image  // that is installed beside it: another kernel of Debian's, signed, too
	Loader     string // the EFI boot loader's file, as its package has it
	Status     string // the guest's dpkg status
	Releases   string // directory of the InRelease files that the packages came by
	References string // the reference set of the guest's packages, of the day that it was built

	image    string // root file system
	dir      string // all of the above
	kept     bool   // the directory is a cache's
	progress func(format string, args ...any)
}

// Image is a kernel that a guest can boot.
type Image struct {
	Kernel string // its file, as its package has it
	Initrd string // as initramfs-tools made it
}

//go:embed guest
var guest embed.FS

// base are the packages that make a guest which boots and measures.
var base = []string{"kmod", "systemd-sysv", "udev", "initramfs-tools", loaderPackage}

const (
	loaderPackage = "systemd-boot-efi"
	loaderPath    = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
)

// timers would start programs of the guest's at times of their own.
const timers = "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer"

// Build installs a Debian system of this machine's suite from this machine's
// mirror into a disk image.
func Build(ctx context.Context, o Options) (*Bed, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("testbed: building a guest needs root, for mmdebstrap --mode=root")
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	s, err := findSources(ctx)
	if err != nil {
		return nil, fmt.Errorf("testbed: %w", err)
	}
	packages := append(append([]string{s.kernel, s.other}, base...), o.Packages...)
	b := &Bed{progress: o.Progress, kept: o.Cache != ""}
	if b.kept {
		if o.Cache, err = filepath.Abs(o.Cache); err != nil {
			return nil, fmt.Errorf("testbed: %w", err)
		}
		b.dir = filepath.Join(o.Cache, "guest-"+key(s, packages))
		unlock, err := lock(o.Cache)
		if err != nil {
			return nil, fmt.Errorf("testbed: %w", err)
		}
		defer unlock()
		if b.locate() == nil && fresh(b.dir) {
			b.progress("guest: taken from %s", b.dir)
			return b, nil
		}
	} else {
		b.dir, err = os.MkdirTemp("", "keystead-testbed-")
	}
	if err != nil {
		return nil, fmt.Errorf("testbed: %w", err)
	}
	if err := b.build(ctx, s, packages); err != nil {
		return nil, errors.Join(fmt.Errorf("testbed: %w", err), os.RemoveAll(b.dir))
	}
	return b, nil
}

// maxAge is less than the seven days after which Debian's security repositories' releases
// of a guest's packages expire.
const maxAge = 5 * 24 * time.Hour

func fresh(dir string) bool {
	st, err := os.Stat(dir)
	return err == nil && time.Since(st.ModTime()) < maxAge
}

// lock makes the cache's directory and keeps others from building there until unlock.
func lock(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

// Close removes the guest unless it is a cache's.
func (b *Bed) Close() error {
	if b.kept {
		return nil
	}
	return os.RemoveAll(b.dir)
}

// buildVersion changes with what build does beside what key sees.
const buildVersion = 3

// key names a guest by all that goes into it, but for the day of the mirror.
func key(s sources, packages []string) string {
	h := sha256.New()
	fmt.Fprintln(h, buildVersion, s.suite, s.lines, packages, timers)
	fs.WalkDir(guest, ".", func(p string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			b, _ := guest.ReadFile(p) // embedded: there
			fmt.Fprintf(h, "%s %d %s\n", p, len(b), b)
		}
		return nil
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// build fills b.dir, in a directory beside it that takes its name when complete.
func (b *Bed) build(ctx context.Context, s sources, packages []string) error {
	work := b.dir + ".part"
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	overlay, root := filepath.Join(work, "overlay"), filepath.Join(work, "root")
	if err := writeGuestFiles(overlay); err != nil {
		return err
	}
	for _, dir := range []string{"releases", "boot"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return err
		}
	}
	start := time.Now()
	args := []string{"--mode=root", "--variant=minbase", "--format=directory", "--quiet",
		"--include=" + strings.Join(packages, ","),
		"--dpkgopt=force-unsafe-io", `--aptopt=Acquire::Languages "none"`,
		fmt.Sprintf(`--extract-hook=cp -rT '%s' "$1"`, overlay),
		fmt.Sprintf(`--customize-hook=cp "$1"/var/lib/apt/lists/*InRelease '%s'`, filepath.Join(work, "releases")),
		`--customize-hook=chroot "$1" systemctl --quiet enable systemd-networkd keystead-testbed`,
		`--customize-hook=chroot "$1" systemctl --quiet disable ` + timers,
		s.suite, root}
	install := command(ctx, "mmdebstrap", append(args, s.lines...)...)
	if rootIsMounted() {
		install.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // its mounts end with it, however it ends
	}
	if err := run(ctx, install); err != nil {
		return err
	}
	b.progress("guest: installed %s and what they need in %.1f s", strings.Join(packages, ", "), time.Since(start).Seconds())

	start = time.Now()
	if err := takeBootFiles(root, filepath.Join(work, "boot")); err != nil {
		return err
	}
	image := filepath.Join(work, "root.img")
	if err := run(ctx, command(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, image, "1G")); err != nil {
		return err
	}
	b.progress("guest: disk image made in %.1f s", time.Since(start).Seconds())
	if err := b.refer(ctx, work); err != nil {
		return err
	}
	for _, dir := range []string{overlay, root} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return err
	}
	if err := os.Rename(work, b.dir); err != nil {
		return err
	}
	return b.locate()
}

// refer builds the reference set now, while the packages are on the mirrors.
func (b *Bed) refer(ctx context.Context, work string) error {
	start := time.Now()
	status, err := os.ReadFile(filepath.Join(work, "boot/dpkg-status"))
	if err != nil {
		return err
	}
	set, err := reference(ctx, status)
	if err != nil {
		return fmt.Errorf("reference set: %w", err)
	}
	b.progress("guest: reference set of %d packages' %d digests built in %.1f s", len(set.Header().Packages), set.Len(), time.Since(start).Seconds())
	return os.WriteFile(filepath.Join(work, "references"), set.Bytes(), 0o644)
}

// writeGuestFiles writes the files that make the guest a bed, for cp to take over.
func writeGuestFiles(to string) error {
	files, err := fs.Sub(guest, "guest")
	if err != nil {
		return err
	}
	if err := os.CopyFS(to, files); err != nil {
		return err
	}
	return filepath.WalkDir(filepath.Join(to, "etc/initramfs-tools"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(p, 0o755) // hooks and scripts are executed when the initrd is made
	})
}

// rootIsMounted reports whether / is a mount of its own. In a plain chroot it is not,
// and there the kernel refuses the private mounts that a process may otherwise have.
func rootIsMounted() bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/" {
			return true
		}
	}
	return false
}

// takeBootFiles copies what the firmware and the boot loader read.
func takeBootFiles(root, to string) error {
	for name, pattern := range map[string]string{"vmlinuz": "boot/vmlinuz-*", "initrd.img": "boot/initrd.img-*", "other-vmlinuz": "boot/vmlinuz-*" + otherFlavour,
		"other-initrd.img": "boot/initrd.img-*" + otherFlavour, "loader.efi": loaderPath, "dpkg-status": "var/lib/dpkg/status"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if !strings.HasSuffix(pattern, otherFlavour) {
			found = slices.DeleteFunc(found, func(p string) bool { return strings.HasSuffix(p, otherFlavour) })
		}
		if err != nil || len(found) != 1 {
			return fmt.Errorf("the guest has %d files %s, want one", len(found), pattern)
		}
		content, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// locate sets the bed's paths, and fails if a file is missing.
func (b *Bed) locate() error {
	boot := filepath.Join(b.dir, "boot")
	b.Kernel, b.Initrd, b.Loader = filepath.Join(boot, "vmlinuz"), filepath.Join(boot, "initrd.img"), filepath.Join(boot, "loader.efi")
	b.Other = Image{filepath.Join(boot, "other-vmlinuz"), filepath.Join(boot, "other-initrd.img")}
	b.Status, b.Releases = filepath.Join(boot, "dpkg-status"), filepath.Join(b.dir, "releases")
	b.References = filepath.Join(b.dir, "references")
	b.image = filepath.Join(b.dir, "root.img")
	for _, p := range []string{b.Kernel, b.Initrd, b.Other.Kernel, b.Other.Initrd, b.Loader, b.Status, b.Releases, b.References, b.image} {
		if _, err := os.Stat(p); err != nil {
			return err
		}
	}
	return nil
}
