// libnvrtc: compiles the very source it is given, with the host's compiler. Its "cubin" is a shared library.
#include "contract.h"
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

enum Result { SUCCESS, OUT_OF_MEMORY, PROGRAM_CREATION_FAILURE, INVALID_INPUT, INVALID_PROGRAM, INVALID_OPTION, COMPILATION };
const char* const NAMES[] = {"NVRTC_SUCCESS", "NVRTC_ERROR_OUT_OF_MEMORY", "NVRTC_ERROR_PROGRAM_CREATION_FAILURE", "NVRTC_ERROR_INVALID_INPUT",
                             "NVRTC_ERROR_INVALID_PROGRAM", "NVRTC_ERROR_INVALID_OPTION", "NVRTC_ERROR_COMPILATION"};

struct Program {
    std::string name, source, log, cubin;
    std::vector<std::string> definitions;
    bool machine_code = false;  // asked for sm_XX: with compute_XX there is only PTX
};

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}
std::string env(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}
std::string quoted(const std::string& text) { return "'" + text + "'"; }
bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }

// The next occurrence of a whole word.
size_t find_word(const std::string& text, const char* word, size_t from) {
    size_t length = strlen(word);
    for (; (from = text.find(word, from)) != std::string::npos; from += length)
        if ((from == 0 || !is_word(text[from - 1])) && !is_word(text[from + length])) return from;
    return from;
}

// The names that a declaration declares: each is the last word before a bracket, a comma or the end.
std::vector<std::string> declared(const std::string& declaration) {
    std::vector<std::string> names(1);
    std::string word;
    int depth = 0;
    bool dimensions = false;
    for (char c : declaration + ",") {
        if (depth == 0 && is_word(c)) {
            word += c;
            continue;
        }
        if (!word.empty() && !dimensions) names.back() = word;
        word.clear();
        if (c == '[' && depth == 0) dimensions = true;
        depth += (c == '[' || c == '(' || c == '<' || c == '{') - (c == ']' || c == ')' || c == '>' || c == '}');
        if (c == ',' && depth == 0) names.emplace_back(), dimensions = false;
    }
    names.pop_back();
    return names;
}

// `__shared__ T a[2], b;` becomes a structure that the block's threads share, and references to its parts;
// `extern __shared__ T a[];` a pointer to what the launch asked for. Lines stay where they were.
void rewrite_shared(std::string& text) {
    size_t at = 0;
    for (int k = 0; (at = find_word(text, "__shared__", at)) != std::string::npos; ++k) {
        size_t end = text.find(';', at), after = at + strlen("__shared__"), before = text.find_last_not_of(" \t\n", at - 1);
        std::string declaration = text.substr(after, end - after), number = std::to_string(k), made;
        bool dynamic = before != std::string::npos && before >= 5 && text.compare(before - 5, 6, "extern") == 0;
        auto names = declared(declaration);
        if (dynamic) {
            std::string type = declaration.substr(0, declaration.rfind(names[0]));
            made = "typedef " + type + " Shared_" + number + "; auto " + names[0] + " = (Shared_" + number +
                   "*)emulator::here()->host->dynamic_shared(emulator::here());";
            at = before - 5;
        } else {
            made = "struct Shared_" + number + " { " + declaration + "; }; static const char shared_" + number +
                   " = 0; auto& pieces_" + number + " = emulator::shared<Shared_" + number + ">(&shared_" + number + ");";
            for (auto& name : names) made += " auto& " + name + " = pieces_" + number + "." + name + ";";
        }
        text.replace(at, end + 1 - at, made);
        at += made.size();
    }
}

// What a module exports for each kernel.
std::string entries(const std::string& text) {
    std::string out = "\n";
    for (size_t at = 0; (at = find_word(text, "__global__", at)) != std::string::npos; ++at) {
        size_t open = text.find('(', at);
        std::string bounds = "1024", head = text.substr(at, open - at);
        size_t bound = head.find("__launch_bounds__");
        if (bound != std::string::npos) {
            size_t close = text.find(')', open);
            std::string inside = text.substr(open + 1, close - open - 1);
            bounds = inside.substr(0, inside.find(','));
            open = text.find('(', close);
        }
        size_t last = text.find_last_not_of(" \t\n", open - 1), first = last;
        while (first > 0 && is_word(text[first - 1])) --first;
        size_t close = open + 1;
        for (int depth = 1; depth; ++close) depth += (text[close] == '(') - (text[close] == ')');
        // With its parameters, because a template may have the same name.
        std::string name = text.substr(first, last + 1 - first), parameters = text.substr(open, close - open);
        std::string entry = "emulator::Entry<static_cast<void (*)" + parameters + ">(" + name + ")>::";
        out += "extern \"C\" __attribute__((visibility(\"default\"))) const emulator::Kernel emulator_" + name + " = {" + entry + "call, " + entry + "sizes, " + entry + "count, (unsigned)(" +
               bounds + ")};\n";
    }
    return out;
}

bool command(const std::string& line, std::string& output) {
    // An address sanitizer that is preloaded is not for the compiler.
    FILE* pipe = popen(("exec 2>&1; unset LD_PRELOAD; " + line).c_str(), "r");
    if (!pipe) return false;
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.append(buffer, n);
    int status = pclose(pipe);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool compile(Program& program) {
    std::string folder = env("TMPDIR", "/tmp") + "/tweedie-emulator-XXXXXX";
    if (!mkdtemp(folder.data())) return program.log = "no temporary folder", false;
    std::string compiler = env("TWEEDIE_EMULATOR_CXX", "c++"), flags = env("TWEEDIE_EMULATOR_CXXFLAGS", "-O1");
    std::string plain = folder + "/plain.cpp", kernels = folder + "/kernels.cpp", library = folder + "/kernels.so", definitions;
    for (auto& definition : program.definitions) definitions += " " + quoted("-D" + definition);
    std::ofstream(plain) << "#line 1 \"" << program.name << "\"\n" << program.source;
    std::string text, log;
    // Macros are expanded first, by the compiler without the shim: kernels and shared memory are then there to be read.
    bool made = command(compiler + " -std=c++17 -E" + definitions + " " + quoted(plain) + " -o " + quoted(kernels), log);
    if (made) {
        text = read(kernels);
        std::string exported = entries(text);
        rewrite_shared(text);
        std::ofstream(kernels) << "#include \"shim.h\"\n" << text << exported;
        // Hidden: the C library has an `advance` too, and a kernel's name must mean the kernel.
        made = command(compiler + " -std=c++17 -shared -fPIC -fvisibility=hidden -w -ffp-contract=off -fno-math-errno -fno-strict-aliasing " + flags + " -I " + quoted(EMULATOR) +
                           " " + quoted(kernels) + " -o " + quoted(library) + " -lm", log);
    }
    program.log = log;
    if (made) program.cubin = read(library);
    if (env("TWEEDIE_EMULATOR_KEEP", "").empty())
        for (auto& path : {plain, kernels, library}) unlink(path.c_str());
    rmdir(folder.c_str());
    return made;
}

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

Result give(const std::string& text, char* out) { return memcpy(out, text.c_str(), text.size() + 1), SUCCESS; }

}  // namespace

extern "C" {

Result nvrtcVersion(int* major, int* minor) { return *major = 12, *minor = 9, SUCCESS; }
const char* nvrtcGetErrorString(Result r) { return r <= COMPILATION ? NAMES[r] : "NVRTC_ERROR unknown"; }

Result nvrtcGetNumSupportedArchs(int* count) { return *count = 4, SUCCESS; }
Result nvrtcGetSupportedArchs(int* archs) {
    for (int arch : {80, 86, 89, 90}) *archs++ = arch;
    return SUCCESS;
}

Result nvrtcCreateProgram(Program** program, const char* source, const char* name, int headers, const char* const*, const char* const*) {
    if (!program || !source || headers != 0) return INVALID_INPUT;
    *program = new Program;
    (*program)->source = source;
    (*program)->name = name ? name : "default_program";
    return SUCCESS;
}

Result nvrtcDestroyProgram(Program** program) {
    if (!program || !*program) return INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

Result nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    if (!program) return INVALID_PROGRAM;
    for (int i = 0; i < count; ++i) {
        std::string option = options[i];
        bool arch = starts_with(option, "--gpu-architecture=") || starts_with(option, "-arch=");
        if (arch) program->machine_code = option.find("=sm_") != std::string::npos;
        if (starts_with(option, "-D")) program->definitions.push_back(option.substr(2));
        else if (starts_with(option, "--define-macro=")) program->definitions.push_back(option.substr(15));
        else if (!arch) {
            bool known = option == "-default-device" || option == "--device-as-default-execution-space";
            for (auto start : {"--std=", "-std=", "--fmad", "-fmad", "--ftz", "--prec-", "--use_fast_math", "--maxrregcount", "-lineinfo",
                               "--generate-line-info", "--ptxas-options", "-Xptxas", "--extra-device-vectorization", "--diag-", "-split-compile"})
                known = known || starts_with(option, start);
            if (!known) return program->log = "unrecognized option " + option, INVALID_OPTION;
        }
    }
    return compile(*program) ? SUCCESS : COMPILATION;
}

Result nvrtcGetProgramLogSize(Program* program, size_t* size) { return program ? *size = program->log.size() + 1, SUCCESS : INVALID_PROGRAM; }
Result nvrtcGetProgramLog(Program* program, char* log) { return program ? give(program->log, log) : INVALID_PROGRAM; }

Result nvrtcGetCUBINSize(Program* program, size_t* size) {
    if (!program || program->cubin.empty()) return INVALID_PROGRAM;
    return *size = program->machine_code ? program->cubin.size() : 0, SUCCESS;
}
Result nvrtcGetCUBIN(Program* program, char* cubin) {
    if (!program || program->cubin.empty() || !program->machine_code) return INVALID_PROGRAM;
    return memcpy(cubin, program->cubin.data(), program->cubin.size()), SUCCESS;
}

// There is no PTX: its place is taken by the source, which the driver refuses to load.
Result nvrtcGetPTXSize(Program* program, size_t* size) { return program ? *size = program->source.size() + 1, SUCCESS : INVALID_PROGRAM; }
Result nvrtcGetPTX(Program* program, char* ptx) { return program ? give(program->source, ptx) : INVALID_PROGRAM; }
}
