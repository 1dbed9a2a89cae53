package process

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
)

const (
	pageSize = 4096
	maxCode  = 512 // executable mappings of a process
)

// A piece is memory that must be the pages of a file.
type piece struct {
	start, end uint64
	vma        vma
	reason     keystead.Reason // of a page that is not
}

// A code is an executable mapping of another file than the program's.
type code struct {
	vma  vma
	file stamp
}

// A layout is all of a process's memory that matters.
type layout struct {
	exe       stamp
	text      []vma // those that the fixed section begins in, one for each segment
	pieces    []piece
	libraries []code // one for each mapping
}

func (l layout) equal(o layout) bool {
	return l.exe == o.exe && slices.Equal(l.text, o.text) && slices.Equal(l.pieces, o.pieces) && slices.Equal(l.libraries, o.libraries)
}

func down(n uint64) uint64 { return n &^ (pageSize - 1) }
func up(n uint64) uint64   { return down(n + pageSize - 1) }

// look finds the fixed section of the program in memory, and what else is executable.
func (m *Measurement) look(exe stamp) (layout, error) {
	l := layout{exe: exe}
	_, vmas, err := m.process.maps()
	if err != nil {
		return l, err
	}
	base, err := m.base(vmas, exe)
	if err != nil {
		return l, err
	}
	own := map[uint64]bool{} // executable mappings of the program, by their start
	for _, s := range m.Program.Image.Fixed {
		if err := m.segment(&l, vmas, base, s, own); err != nil {
			return l, err
		}
	}
	count := 0
	for _, v := range vmas {
		if !v.executable() || own[v.start] {
			continue
		}
		if count++; count > maxCode {
			return l, m.foreign("at most 512 executable mappings", "more")
		}
		if err := m.other(&l, v); err != nil {
			return l, err
		}
	}
	return l, nil
}

func (m *Measurement) foreign(want, got string) error {
	return m.process.deny(keystead.ReasonMappingForeign, want, got)
}

func (m *Measurement) altered(want, got string) error {
	return m.process.deny(keystead.ReasonTextAltered, want, got)
}

// base returns how far the program was moved.
func (m *Measurement) base(vmas []vma, exe stamp) (uint64, error) {
	if !m.Program.Image.Relocatable {
		return 0, nil
	}
	first := m.Program.Image.Fixed[0]
	for _, v := range vmas {
		if v.inode == 0 || !v.private() || v.offset != down(first.Offset) {
			continue
		}
		file, _, err := m.process.look(v.at())
		if err != nil {
			return 0, err
		}
		if file == exe {
			return v.start - down(first.Address), nil
		}
	}
	return 0, m.altered("the program's first segment in memory", "none")
}

// segment finds a segment of the fixed section: all of it mapped from the program's file,
// at its place, and not to be written.
func (m *Measurement) segment(l *layout, vmas []vma, base uint64, s app.Segment, own map[uint64]bool) error {
	start, end := down(base+s.Address), up(base+s.Address+s.Size)
	at := start
	for _, v := range vmas {
		if v.end <= at || at >= end {
			continue
		}
		executable := s.Flags&elf.PF_X != 0
		if v.start > at || v.writable() || !v.private() || v.executable() != executable || v.inode == 0 || v.offset+at-v.start != down(s.Offset)+at-start {
			return m.altered(fmt.Sprintf("the segment at %x from the program's file, read-only", start), v.String())
		}
		if executable && (v.start < start || v.end > end) {
			return m.altered(fmt.Sprintf("code from %x to %x", start, end), v.String())
		}
		file, _, err := m.process.look(v.at())
		if err != nil {
			return err
		}
		if file != l.exe {
			return m.altered(fmt.Sprintf("the segment at %x from the program's file", start), v.String())
		}
		if at == start {
			l.text = append(l.text, v)
		}
		own[v.start] = own[v.start] || executable
		next := min(v.end, end)
		l.pieces = append(l.pieces, piece{at, next, v, keystead.ReasonTextAltered})
		at = next
	}
	if at < end {
		return m.altered(fmt.Sprintf("the segment at %x in memory", start), "an end of it at "+fmt.Sprintf("%x", at))
	}
	return nil
}

// other judges an executable mapping that is not the program's: the kernel's own, or a
// library's.
func (m *Measurement) other(l *layout, v vma) error {
	kernel := v.inode == 0 && (v.name == "[vdso]" || v.name == "[vsyscall]" && v.permissions == "--xp")
	switch {
	case kernel && v.name == "[vdso]" && !v.writable():
		l.pieces = append(l.pieces, piece{v.start, v.end, v, keystead.ReasonTextAltered})
		return nil
	case kernel && !v.writable():
		return nil
	case v.inode == 0 || v.writable() || !v.private():
		return m.foreign("code of the program and of libraries that it names", v.String())
	}
	file, st, err := m.process.look(v.at())
	if err != nil {
		return err
	}
	if err := m.process.trusted(fmt.Sprintf("a library (%.256q)", v.name), st); err != nil {
		return err
	}
	l.libraries = append(l.libraries, code{v, file})
	l.pieces = append(l.pieces, piece{v.start, v.end, v, keystead.ReasonTextAltered})
	return nil
}

// pages sees to it that all memory that matters is the pages of its files.
func (m *Measurement) pages() error {
	pagemap, err := m.process.file("pagemap", os.O_RDONLY)
	if err != nil {
		return err
	}
	defer pagemap.Close()
	for _, s := range m.seen.pieces {
		at, found, err := changed(pagemap, s.start, s.end)
		if err != nil {
			return m.process.explain("pagemap", err)
		}
		if found {
			return m.process.deny(s.reason, "the pages of "+s.vma.String(), fmt.Sprintf("another page at %x", at))
		}
	}
	return nil
}

// text returns the digest of the fixed section: through the files of its mappings, and
// where it may be, of the memory itself.
func (m *Measurement) text(ctx context.Context) (keystead.Digest, error) {
	if m.options.ReadMemory {
		return m.memory(ctx)
	}
	readers := map[uint64]io.ReaderAt{}
	for i, s := range m.Program.Image.Fixed {
		f, err := m.process.openSeen(m.seen.text[i].at(), m.seen.exe)
		if err != nil {
			return keystead.Digest{}, err
		}
		defer f.Close()
		readers[s.Address] = untilDone{ctx, f}
	}
	return app.Text(m.Program.Image.Fixed, func(s app.Segment) io.Reader {
		return io.NewSectionReader(readers[s.Address], int64(s.Offset), int64(s.Size))
	})
}

func (m *Measurement) memory(ctx context.Context) (d keystead.Digest, err error) {
	mem, err := m.process.file("mem", os.O_RDONLY)
	if err != nil {
		return d, err
	}
	defer mem.Close()
	moved := m.seen.text[0].start - down(m.Program.Image.Fixed[0].Address) + down(m.Program.Image.Fixed[0].Offset) - m.seen.text[0].offset
	d, err = app.Text(m.Program.Image.Fixed, func(s app.Segment) io.Reader {
		return io.NewSectionReader(untilDone{ctx, mem}, int64(moved+s.Address), int64(s.Size))
	})
	if err != nil {
		return d, m.process.explain("mem", err)
	}
	m.Coverage = app.CoverageMemory
	return d, nil
}

// A library is a file whose code is in the process.
type library struct {
	image   *app.Image
	mapping app.Mapping
}

// holds refuses a mapping of the library that is not its code.
func (m *Measurement) holds(l library, v vma) error {
	inCode := func(s app.Segment) bool {
		return s.Flags&elf.PF_X != 0 && down(s.Offset) <= v.offset && v.offset+v.end-v.start <= up(s.Offset+s.Size)
	}
	if !slices.ContainsFunc(l.image.Fixed, inCode) {
		return m.foreign("the code of a library", "another part of it: "+v.String())
	}
	return nil
}

// library names the file of a mapping, and measures it.
func (m *Measurement) library(ctx context.Context, c code) (l library, err error) {
	f, err := m.process.openSeen(c.vma.at(), c.file)
	if err != nil {
		return l, err
	}
	defer f.Close()
	file := untilDone{ctx, f}
	if l.image, err = app.ParseImage(file, int64(c.file.size)); err != nil {
		return l, err
	}
	l.mapping.Name = m.Program.Image.LibraryName(l.image, l.image.Name == "" && m.isLoader(c.file))
	if l.mapping.Name == "" {
		return l, m.foreign("libraries that have a name", c.vma.String())
	}
	if err := m.Program.Note.Maps(l.mapping.Name); err != nil {
		return l, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(file, 0, int64(c.file.size))); err != nil {
		return l, err
	}
	h.Sum(l.mapping.File[:0])
	return l, nil
}

// isLoader reports whether a file is the one that the program names as its loader. Where
// the kernel can not tell without asking a file system, it is not.
func (m *Measurement) isLoader(file stamp) bool {
	if m.Program.Image.Interpreter == "" {
		return false
	}
	at, err := stampOfCached(m.Program.Image.Interpreter, 0)
	return err == nil && at == file
}
