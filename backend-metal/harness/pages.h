// What is recorded about memory, in pages.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>

constexpr uintptr_t PAGE_BYTES = 4096;

/// Pages by the address that they describe, created at their first use.
template <class Page>
class Pages {
  static constexpr uintptr_t RECENT = 64;
  struct Recent { uintptr_t key = 0; Page* page = nullptr; };
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  Recent recent[RECENT];

 public:
  Page& of(uintptr_t address) {
    const uintptr_t key = address / PAGE_BYTES;  // the first page is never mapped
    Recent& entry = recent[key % RECENT];
    if (entry.key != key) {
      auto& page = pages[key];
      if (!page) page = std::make_unique<Page>();
      entry = {key, page.get()};
    }
    return *entry.page;
  }
  /// Deletes all pages if there are more than `most`: records of other launches are invalid anyway.
  void trim(size_t most) {
    if (pages.size() <= most) return;
    pages.clear();
    std::fill(std::begin(recent), std::end(recent), Recent{});
  }
};

/// Which bytes a launch has read, and which it has written.
class Touched {
  static constexpr uintptr_t WORD_BYTES = 64;  // one bit of a word for each
  struct Page { uint32_t launch = 0; uint64_t bits[2][PAGE_BYTES / WORD_BYTES] = {}; };
  Pages<Page> pages;

 public:
  /// Records an access, and returns how many of its bytes are new in this launch.
  uint32_t note(uintptr_t address, uint32_t size, bool is_write, uint32_t launch) {
    uint32_t fresh = 0;
    for (const uintptr_t end = address + size; address < end;) {
      const uintptr_t from = address % WORD_BYTES, length = std::min(WORD_BYTES - from, end - address);
      Page& page = pages.of(address);
      if (page.launch != launch) { page = Page{}; page.launch = launch; }
      uint64_t& word = page.bits[is_write][address % PAGE_BYTES / WORD_BYTES];
      const uint64_t mask = (length == WORD_BYTES ? ~0ull : (1ull << length) - 1) << from;
      if (mask & ~word) {
        fresh += static_cast<uint32_t>(__builtin_popcountll(mask & ~word));
        word |= mask;
      }
      address += length;
    }
    return fresh;
  }
  void trim() { pages.trim(1 << 18); }
};
