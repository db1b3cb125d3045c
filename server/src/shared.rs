//! Memory that threads and forked children share, and a lock in it.
//!
//! A page mapped `MAP_SHARED` stays the same memory after fork(2), so what lies in it is one thing for all
//! workers, whatever they are.

use std::{
    cell::UnsafeCell,
    ffi::c_void,
    fs::File,
    io,
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use nix::{
    fcntl::posix_fallocate,
    libc,
    sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};

/// A slice of `T` in memory that stays shared across fork(2), and at its head, where it has one, an `H`.
pub struct Shared<T: 'static, H: 'static = ()> {
    head: &'static H,
    slice: &'static [T],
}

/// What may lie in shared memory.
///
/// # Safety
/// All zero bytes must be a value of the type, it must not own anything outside its own bytes, and other
/// processes may change it at any time: it consists of atomics, or guards itself with a lock.
#[allow(unsafe_code)]
pub unsafe trait Sharable: 'static {}

impl<T: Sharable> Shared<T> {
    /// `count` of them, all zero, in memory without a name.
    ///
    /// # Errors
    /// Where the kernel refuses the memory (mmap(2)).
    #[allow(unsafe_code)]
    pub fn new(count: usize) -> io::Result<Self> {
        let bytes = Self::bytes(count)?;
        // SAFETY: a fresh anonymous mapping at an address that the kernel chooses touches no memory of ours.
        let start = unsafe { mmap_anonymous(None, bytes, Self::ACCESS, MapFlags::MAP_SHARED) }?;
        // SAFETY: the mapping is as long as `bytes` says, zero, and nobody else's.
        Ok(unsafe { Self::at(start, count) })
    }
}

impl<T: Sharable, H: Sharable> Shared<T, H> {
    const ACCESS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

    /// A head and `count` of them in `file`, which is empty: all zero, and seen by whoever reads the file. Its
    /// blocks are reserved, for a store that finds no room on the disk would be a signal (SIGBUS); whoever
    /// truncates the file makes it one.
    ///
    /// # Errors
    /// `ENOSPC` where there is no room, and where the kernel refuses to map the file (mmap(2)).
    #[allow(unsafe_code)]
    pub fn in_file(file: &File, count: usize) -> io::Result<Self> {
        let bytes = Self::bytes(count)?;
        posix_fallocate(file, 0, bytes.get().try_into().map_err(|_| io::ErrorKind::FileTooLarge)?)?;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let start = unsafe { mmap(None, bytes, Self::ACCESS, MapFlags::MAP_SHARED, file, 0) }?;
        // SAFETY: the mapping is as long as `bytes` says, zero, and nobody else's but through a `Shared` too.
        Ok(unsafe { Self::at(start, count) })
    }

    /// How much memory they take.
    fn bytes(count: usize) -> io::Result<NonZeroUsize> {
        let slice = count.checked_mul(size_of::<T>());
        let bytes = slice.and_then(|slice| Self::SLICE.checked_add(slice)).and_then(NonZeroUsize::new);
        bytes.ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Where the slice begins: after the head, aligned.
    const SLICE: usize = size_of::<H>().next_multiple_of(align_of::<T>());

    /// What lies in the mapping at `start`.
    ///
    /// # Safety
    /// The mapping is as long as `bytes` says for `count`, it began as zero, and others change it as [`Sharable`]
    /// allows, and not otherwise.
    #[allow(unsafe_code)]
    unsafe fn at(start: NonNull<c_void>, count: usize) -> Self {
        // SAFETY: a mapping is page-aligned, which is enough for every H here, and zero, which is an H (see
        // `Sharable`); it lives until `drop`, and no reference outlives `self` (see `head`).
        let head = unsafe { start.cast::<H>().as_ref() };
        // SAFETY: as above; `count` T lie in the mapping from here on, aligned.
        let slice = unsafe { std::slice::from_raw_parts(start.byte_add(Self::SLICE).cast().as_ptr(), count) };
        Self { head, slice }
    }
}

impl<T, H> Shared<T, H> {
    /// What lies before the slice.
    pub fn head(&self) -> &H {
        self.head
    }
}

impl<T, H> Deref for Shared<T, H> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.slice
    }
}

impl<T, H> Drop for Shared<T, H> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let start = NonNull::from(self.head).cast();
        let bytes = self.slice.as_ptr_range().end.addr() - start.addr().get();
        // SAFETY: exactly the mapping that `new` or `in_file` made, and this is the last use of it.
        let _ = unsafe { munmap(start, bytes) };
    }
}

/// A value under a mutex that processes share and that survives its holder: where one is killed while it
/// holds the lock, the next one gets it (pthread_mutexattr_setrobust(3)).
pub struct SharedMutex<T: 'static>(Shared<Locked<T>>);

#[repr(C)]
struct Locked<T> {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    value: UnsafeCell<T>,
}

// SAFETY: zero bytes are a (not yet initialised) pthread_mutex_t and, as T is Sharable, a T; both own nothing
// else, and the value is only touched under the mutex.
#[allow(unsafe_code)]
unsafe impl<T: Sharable> Sharable for Locked<T> {}

// SAFETY: the value is only touched under the mutex, which is what makes a T that may move between threads
// usable from several.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for SharedMutex<T> {}

// SAFETY: it is a reference to shared memory, and the mutex has no owner while nobody holds it.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for SharedMutex<T> {}

// SAFETY: nothing is nothing.
#[allow(unsafe_code)]
unsafe impl Sharable for () {}

// SAFETY: an atomic integer, for which zero is a value.
#[allow(unsafe_code)]
unsafe impl Sharable for AtomicU64 {}

/// The lock, held.
pub struct Held<'a, T> {
    locked: &'a Locked<T>,
    abandoned: bool,
}

impl<T: Sharable> SharedMutex<T> {
    /// An unlocked one over zero bytes.
    ///
    /// # Errors
    /// Where the kernel refuses the memory, or the system has no robust mutexes.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Self> {
        let page = Shared::<Locked<T>>::new(1)?;
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        let worked = |status: libc::c_int| match status {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
        // SAFETY: the attributes are initialised before they are used and destroyed after; the mutex lies in
        // memory that nobody else knows of yet, and is initialised once.
        unsafe {
            worked(libc::pthread_mutexattr_init(attributes))?;
            worked(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED))?;
            worked(libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK))?;
            worked(libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST))?;
            worked(libc::pthread_mutex_init(page[0].mutex.get(), attributes))?;
            libc::pthread_mutexattr_destroy(attributes);
        }
        Ok(Self(page))
    }
}

impl<T> SharedMutex<T> {
    /// Waits for the lock. Where its last holder was killed while it held it, the value is as that one left it:
    /// see [`Held::was_abandoned`].
    ///
    /// # Panics
    /// Where the calling thread holds it already, or the mutex was overwritten.
    #[allow(unsafe_code)]
    pub fn lock(&self) -> Held<'_, T> {
        let locked = &self.0[0];
        // SAFETY: the mutex was initialised in `new`, and is destroyed by nobody.
        let abandoned = match unsafe { libc::pthread_mutex_lock(locked.mutex.get()) } {
            0 => false,
            libc::EOWNERDEAD => {
                log::warn!("the holder of a lock died; the lock was recovered");
                // SAFETY: this thread holds the mutex, as EOWNERDEAD says.
                unsafe { libc::pthread_mutex_consistent(locked.mutex.get()) };
                true
            }
            errno => panic!("pthread_mutex_lock: {}", io::Error::from_raw_os_error(errno)),
        };
        Held { locked, abandoned }
    }
}

impl<T> Held<'_, T> {
    /// Whether the last holder was killed while it held the lock, perhaps between two writes.
    pub fn was_abandoned(&self) -> bool {
        self.abandoned
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    #[allow(unsafe_code)]
    fn deref(&self) -> &T {
        // SAFETY: this is the holder of the mutex, and the only one.
        unsafe { &*self.locked.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[allow(unsafe_code)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this is the holder of the mutex, and the only one.
        unsafe { &mut *self.locked.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: this thread locked it: `Held` holds a raw cell, so it is not Send.
        unsafe { libc::pthread_mutex_unlock(self.locked.mutex.get()) };
    }
}
