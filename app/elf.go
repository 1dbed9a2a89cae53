package app

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keystead/keystead"
)

// Bounds of what is read of an ELF file.
const (
	MaxProgram   = 1 << 30  // bytes of a file
	maxSegments  = 64       // program headers
	maxSections  = 16 << 10 // section headers
	maxNames     = 4 << 20  // bytes of the section names
	maxDynamic   = 1 << 20  // bytes of the dynamic section
	maxSymbol    = 255      // bytes of a library's name
	maxLibraries = 128

	headerSize  = 64
	segmentSize = 56
	sectionSize = 64
	pageSize    = 4096
)

// A Segment is a part of the file that the kernel maps: a PT_LOAD of ELF.
type Segment struct {
	Offset  uint64 // in the file, bytes
	Address uint64 // in memory, before the program is moved as a whole
	Size    uint64 // bytes of the file
	Flags   elf.ProgFlag
}

// An Image is what is read of an ELF file before anything in it is believed. Only files
// that can be signed and measured have one: 64 bits, little-endian, none of its memory
// both writable and executable, its read-only segments on pages of their own.
type Image struct {
	Fixed       []Segment // the PT_LOADs without W, by address: the fixed section
	Interpreter string    // path of the loader; empty for a static program
	Needed      []string  // DT_NEEDED, in their order
	Name        string    // DT_SONAME
	Relocatable bool      // the kernel chooses where it lies (ET_DYN)

	header   [headerSize]byte
	segments []Segment // all PT_LOADs
	memory   []uint64  // size of each in memory
	size     int64
}

// fields are those of the ELF header that describe the table of sections, which neither
// the kernel nor the loader reads. Signing changes them.
type fields struct {
	offset               uint64 // e_shoff
	entry, count, string uint16 // e_shentsize, e_shnum, e_shstrndx
}

func (f fields) put(header []byte) {
	binary.LittleEndian.PutUint64(header[40:], f.offset)
	binary.LittleEndian.PutUint16(header[58:], f.entry)
	binary.LittleEndian.PutUint16(header[60:], f.count)
	binary.LittleEndian.PutUint16(header[62:], f.string)
}

func (i *Image) fields() fields {
	h := i.header[:]
	return fields{binary.LittleEndian.Uint64(h[40:]), binary.LittleEndian.Uint16(h[58:]), binary.LittleEndian.Uint16(h[60:]), binary.LittleEndian.Uint16(h[62:])}
}

// unsuitable refuses a file that can not be signed or measured.
func unsuitable(want, got string, args ...any) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonBinaryUnsuitable, Where: "executable", Want: want, Got: fmt.Sprintf(got, args...)})
}

// ParseImage reads the headers of an ELF file of size bytes. It refuses with
// binary-unsuitable. An error of the reader is returned as it is.
func ParseImage(file io.ReaderAt, size int64) (*Image, error) {
	i := &Image{size: size}
	if size < headerSize || size > MaxProgram {
		return nil, unsuitable("an ELF file", "%d bytes, where %d to %d are read", size, headerSize, MaxProgram)
	}
	if err := readAt(file, i.header[:], 0); err != nil {
		return nil, err
	}
	if err := i.checkHeader(); err != nil {
		return nil, err
	}
	dynamic, err := i.readSegments(file)
	if err != nil {
		return nil, err
	}
	if err := i.checkSegments(); err != nil {
		return nil, err
	}
	if dynamic.Size > 0 {
		if err := i.readDynamic(file, dynamic); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// readAt fills b. A file that is shorter than it was said to be is unsuitable.
func readAt(file io.ReaderAt, b []byte, offset int64) error {
	n, err := file.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return unsuitable("a file that holds what its headers say", "its end at %d", offset+int64(n))
	}
	return err
}

func (i *Image) checkHeader() error {
	h := i.header[:]
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(h[at:]) }
	i.Relocatable = elf.Type(u16(16)) == elf.ET_DYN
	switch {
	case string(h[:4]) != elf.ELFMAG || h[elf.EI_CLASS] != byte(elf.ELFCLASS64) || h[elf.EI_DATA] != byte(elf.ELFDATA2LSB) || h[elf.EI_VERSION] != byte(elf.EV_CURRENT):
		return unsuitable("ELF of 64 bits, little-endian", "a file that begins %x", h[:7])
	case elf.Type(u16(16)) != elf.ET_EXEC && !i.Relocatable:
		return unsuitable("an executable", "ELF of type %v", elf.Type(u16(16)))
	case u16(52) != headerSize || u16(54) != segmentSize || u16(56) == 0 || u16(56) > maxSegments:
		return unsuitable("1 to 64 program headers of 56 bytes", "%d of %d bytes", u16(56), u16(54))
	}
	return nil
}

// readSegments reads the program headers, and returns the dynamic segment.
func (i *Image) readSegments(file io.ReaderAt) (dynamic Segment, err error) {
	offset, count := binary.LittleEndian.Uint64(i.header[32:]), int(binary.LittleEndian.Uint16(i.header[56:]))
	table := make([]byte, count*segmentSize)
	if offset > uint64(i.size) {
		return dynamic, unsuitable("program headers within the file", "them at %d", offset)
	}
	if err := readAt(file, table, int64(offset)); err != nil {
		return dynamic, err
	}
	for ; len(table) > 0; table = table[segmentSize:] {
		u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(table[at:]) }
		s := Segment{Offset: u64(8), Address: u64(16), Size: u64(32), Flags: elf.ProgFlag(binary.LittleEndian.Uint32(table[4:]))}
		if s.Offset > uint64(i.size) || s.Size > uint64(i.size)-s.Offset {
			return dynamic, unsuitable("segments within the file", "one of %d bytes at %d", s.Size, s.Offset)
		}
		switch elf.ProgType(binary.LittleEndian.Uint32(table)) {
		case elf.PT_LOAD:
			i.segments, i.memory = append(i.segments, s), append(i.memory, u64(40))
		case elf.PT_DYNAMIC:
			dynamic = s
		case elf.PT_INTERP:
			if i.Interpreter, err = i.readInterpreter(file, s); err != nil {
				return dynamic, err
			}
		case elf.PT_GNU_STACK:
			if s.Flags&elf.PF_X != 0 {
				return dynamic, unsuitable("a stack that is not executable", "one that is (PT_GNU_STACK)")
			}
		}
	}
	return dynamic, nil
}

func (i *Image) readInterpreter(file io.ReaderAt, s Segment) (string, error) {
	if s.Size < 2 || s.Size > pageSize {
		return "", unsuitable("the path of a loader", "%d bytes", s.Size)
	}
	b := make([]byte, s.Size)
	if err := readAt(file, b, int64(s.Offset)); err != nil {
		return "", err
	}
	path, rest, ended := strings.Cut(string(b), "\x00")
	if !ended || rest != "" || !strings.HasPrefix(path, "/") {
		return "", unsuitable("the absolute path of a loader", "%.80q", path)
	}
	return path, nil
}

// checkSegments finds the fixed section, and sees to it that memory can be told to be it.
func (i *Image) checkSegments() error {
	executable, end, last := false, uint64(0), Segment{}
	for n, s := range i.segments {
		fixed := s.Flags&elf.PF_W == 0
		switch memory := i.memory[n]; {
		case s.Flags&elf.PF_W != 0 && s.Flags&elf.PF_X != 0:
			return unsuitable("segments that are not both writable and executable", "one at 0x%x", s.Address)
		case s.Size > memory || s.Address+memory < s.Address || s.Address+memory > 1<<56 || (s.Offset-s.Address)%pageSize != 0:
			return unsuitable("segments that can be mapped", "one of %d bytes at 0x%x, at %d in the file", memory, s.Address, s.Offset)
		case fixed && s.Size != memory:
			return unsuitable("read-only segments that are all in the file", "one at 0x%x with %d of %d bytes", s.Address, s.Size, memory)
		case n > 0 && s.Address < end:
			return unsuitable("segments that ascend", "one at 0x%x after 0x%x", s.Address, end)
		case n > 0 && s.Address/pageSize == (end-1)/pageSize && (s.Flags != last.Flags):
			return unsuitable("segments of one kind in a page", "two in that at 0x%x", s.Address&^(pageSize-1))
		}
		if end, last = s.Address+i.memory[n], s; i.memory[n] == 0 {
			return unsuitable("segments that are not empty", "one at 0x%x", s.Address)
		}
		if fixed {
			i.Fixed = append(i.Fixed, s)
			executable = executable || s.Flags&elf.PF_X != 0
		}
	}
	if !executable {
		return unsuitable("an executable segment", "none")
	}
	return nil
}

// readDynamic reads what the loader is asked for.
func (i *Image) readDynamic(file io.ReaderAt, s Segment) error {
	if s.Size > maxDynamic {
		return unsuitable("a dynamic section of at most 1 MiB", "%d bytes", s.Size)
	}
	table := make([]byte, s.Size&^15)
	if err := readAt(file, table, int64(s.Offset)); err != nil {
		return err
	}
	var needed []uint64
	var strings, name uint64
	for ; len(table) > 0; table = table[16:] {
		value := binary.LittleEndian.Uint64(table[8:])
		switch tag := elf.DynTag(binary.LittleEndian.Uint64(table)); {
		case tag == elf.DT_NULL:
			table = table[:16]
		case tag == elf.DT_NEEDED:
			needed = append(needed, value)
		case tag == elf.DT_STRTAB:
			strings = value
		case tag == elf.DT_SONAME:
			name = value
		case tag == elf.DT_TEXTREL, tag == elf.DT_FLAGS && elf.DynFlag(value)&elf.DF_TEXTREL != 0:
			return unsuitable("code that the loader does not change", "text relocations")
		}
	}
	if len(needed) > maxLibraries {
		return unsuitable("at most 128 libraries", "%d", len(needed))
	}
	var err error
	for _, at := range needed {
		library, err := i.symbol(file, strings, at)
		if err != nil {
			return err
		}
		i.Needed = append(i.Needed, library)
	}
	if name != 0 {
		i.Name, err = i.symbol(file, strings, name)
	}
	return err
}

// symbol reads a string of the dynamic section's table.
func (i *Image) symbol(file io.ReaderAt, table, at uint64) (string, error) {
	address := table + at
	for _, s := range i.segments {
		if address < s.Address || address-s.Address >= s.Size || at > maxNames {
			continue
		}
		b := make([]byte, min(maxSymbol+1, s.Size-(address-s.Address)))
		if err := readAt(file, b, int64(s.Offset+address-s.Address)); err != nil {
			return "", err
		}
		name, _, ended := strings.Cut(string(b), "\x00")
		if !ended || !libraryName(name) {
			return "", unsuitable("names of libraries", "%.80q", name)
		}
		return name, nil
	}
	return "", unsuitable("names of libraries within the file", "one at 0x%x", address)
}

// libraryName admits names of files, without a directory.
func libraryName(s string) bool {
	return s != "" && len(s) <= maxSymbol && !strings.HasPrefix(s, ".") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' })
}
