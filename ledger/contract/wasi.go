package contract

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
)

// Error numbers of WASI preview 1.
const (
	wasiOK   = 0
	wasiBadF = 8
	wasiNo   = 52 // ENOSYS
)

// refusing answers a WASI function with an error.
func refusing(number uint64, params ...byte) *function {
	return &function{types(params...), types(i32), func(*run, memory, []uint64) uint64 { return number }}
}

// wasi are the functions that runtimes of languages ask for before anything else. There is no
// file, argument, variable or network behind them; the clock is that of the call, and random
// values are its.
var wasi = map[string]*function{
	"args_sizes_get":          {types(i32, i32), types(i32), twoZeroes},
	"environ_sizes_get":       {types(i32, i32), types(i32), twoZeroes},
	"args_get":                refusing(wasiOK, i32, i32),
	"environ_get":             refusing(wasiOK, i32, i32),
	"clock_time_get":          {types(i32, i64, i32), types(i32), wasiClock},
	"random_get":              {types(i32, i32), types(i32), func(r *run, m memory, a []uint64) uint64 { r.fill(m, a[0], a[1]); return wasiOK }},
	"fd_write":                {types(i32, i32, i32, i32), types(i32), wasiWrite},
	"sched_yield":             refusing(wasiOK),
	"proc_exit":               {types(i32), nil, wasiExit},
	"poll_oneoff":             refusing(wasiNo, i32, i32, i32, i32),
	"fd_close":                refusing(wasiBadF, i32),
	"fd_read":                 refusing(wasiBadF, i32, i32, i32, i32),
	"fd_seek":                 refusing(wasiBadF, i32, i64, i32, i32),
	"fd_fdstat_get":           refusing(wasiBadF, i32, i32),
	"fd_fdstat_set_flags":     refusing(wasiBadF, i32, i32),
	"fd_prestat_get":          refusing(wasiBadF, i32, i32),
	"fd_prestat_dir_name":     refusing(wasiBadF, i32, i32, i32),
	"fd_pread":                refusing(wasiBadF, i32, i32, i32, i64, i32),
	"fd_pwrite":               refusing(wasiBadF, i32, i32, i32, i64, i32),
	"fd_readdir":              refusing(wasiBadF, i32, i32, i32, i64, i32),
	"fd_filestat_get":         refusing(wasiBadF, i32, i32),
	"fd_filestat_set_size":    refusing(wasiBadF, i32, i64),
	"fd_sync":                 refusing(wasiBadF, i32),
	"path_open":               refusing(wasiNo, i32, i32, i32, i32, i32, i64, i64, i32, i32),
	"path_filestat_get":       refusing(wasiNo, i32, i32, i32, i32, i32),
	"path_filestat_set_times": refusing(wasiNo, i32, i32, i32, i32, i64, i64, i32),
	"path_create_directory":   refusing(wasiNo, i32, i32, i32),
	"path_remove_directory":   refusing(wasiNo, i32, i32, i32),
	"path_unlink_file":        refusing(wasiNo, i32, i32, i32),
	"path_readlink":           refusing(wasiNo, i32, i32, i32, i32, i32, i32),
	"path_link":               refusing(wasiNo, i32, i32, i32, i32, i32, i32, i32),
	"path_rename":             refusing(wasiNo, i32, i32, i32, i32, i32, i32),
	"path_symlink":            refusing(wasiNo, i32, i32, i32, i32, i32),
	"sock_accept":             refusing(wasiNo, i32, i32, i32),
	"sock_shutdown":           refusing(wasiNo, i32, i32),
}

// twoZeroes says that there are no arguments or variables.
func twoZeroes(_ *run, m memory, a []uint64) uint64 {
	m.u32(a[0], 0)
	m.u32(a[1], 0)
	return wasiOK
}

// wasiClock is the call's time, whichever clock is asked.
func wasiClock(r *run, m memory, a []uint64) uint64 {
	m.write(a[2], binary.LittleEndian.AppendUint64(nil, r.clock*1_000_000))
	return wasiOK
}

// wasiWrite takes what goes to standard output and error for the log.
func wasiWrite(r *run, m memory, a []uint64) uint64 {
	if fd := uint32(a[0]); fd != 1 && fd != 2 {
		return wasiBadF
	}
	list := m.copy(a[1], uint64(uint32(a[2]))*8, MaxEvent, "a list of buffers")
	total := uint32(0)
	for ; len(list) >= 8; list = list[8:] {
		b := m.read(uint64(binary.LittleEndian.Uint32(list)), uint64(binary.LittleEndian.Uint32(list[4:])), MaxValue, "a buffer")
		r.note(b)
		total += uint32(len(b))
	}
	m.u32(a[3], total)
	return wasiOK
}

// wasiExit ends the call.
func wasiExit(r *run, _ memory, a []uint64) uint64 {
	r.refuse(keystead.ReasonContractTrapped, "a method that returns", fmt.Sprintf("exit status %d; log: %.400q", uint32(a[0]), r.log))
	return 0
}

// env has what AssemblyScript imports: abort, with a message, a file, a line and a column.
var env = map[string]*function{
	"abort": {types(i32, i32, i32, i32), nil, func(r *run, _ memory, a []uint64) uint64 {
		r.refuse(keystead.ReasonContractTrapped, "a method that returns", fmt.Sprintf("abort at line %d, column %d", uint32(a[2]), uint32(a[3])))
		return 0
	}},
}
