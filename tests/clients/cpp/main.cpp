// One whole study from C++, by someone who has read nothing but proto/.
//
//   client TARGET STUDY_ID
//
// Prints one JSON object that says what was seen; ends with status 1 and a message if a call fails that should not.
#include <chrono>
#include <cmath>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include "asktell/v1/study_service.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace v1 = asktell::v1;
using google::protobuf::Struct;
using google::protobuf::Value;
using States = std::map<std::string, std::string>;  // of each trial, by number

namespace {

std::unique_ptr<v1::StudyService::Stub> stub;

// Throws unless the call succeeded.
void Check(const grpc::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.error_message());
}

// A unary call with a deadline: Call(&v1::StudyService::Stub::Ask, request).
template <typename Method, typename Request, typename Response>
grpc::Status TryCall(Method method, const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  return (stub.get()->*method)(&context, request, response);
}

template <typename Request, typename Response>
Response Call(grpc::Status (v1::StudyService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
              const Request& request) {
  Response response;
  Check(TryCall(method, request, &response));
  return response;
}

// Makes a call that has to be refused, and adds to `refusals` how it was. The details of an error are a
// google.rpc.Status in a trailer, which grpc++ hands over as it is.
template <typename Request, typename Response>
void Refused(const std::string& name,
             grpc::Status (v1::StudyService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
             const Request& request, Value* refusals) {
  Response response;
  const grpc::Status status = TryCall(method, request, &response);
  if (status.ok()) throw std::runtime_error(name + " should have been refused");
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) throw std::runtime_error("cannot read the error's details");
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  for (const auto& detail : rich.details()) {
    if (detail.Is<google::rpc::ErrorInfo>()) detail.UnpackTo(&info);
    if (detail.Is<google::rpc::BadRequest>()) detail.UnpackTo(&bad);
  }
  auto& seen = *refusals->mutable_list_value()->add_values()->mutable_struct_value()->mutable_fields();
  seen["call"].set_string_value(name);
  seen["code"].set_number_value(status.error_code());
  seen["reason"].set_string_value(info.reason());
  auto* fields = seen["fields"].mutable_list_value();
  for (const auto& violation : bad.field_violations()) fields->add_values()->set_string_value(violation.field());
}

v1::StudySpec Spec(double lowest_rate) {
  v1::StudySpec spec;
  auto* lr = spec.add_parameters();
  lr->set_name("lr");
  lr->mutable_float_()->set_min(lowest_rate);
  lr->mutable_float_()->set_max(0.1);
  lr->mutable_float_()->set_log(true);
  auto* width = spec.add_parameters();
  width->set_name("width");
  width->mutable_int_()->set_min(16);
  width->mutable_int_()->set_max(64);
  width->mutable_int_()->set_step(16);
  auto* act = spec.add_parameters();
  act->set_name("act");
  act->mutable_categorical()->add_choices()->set_string_value("relu");
  act->mutable_categorical()->add_choices()->set_string_value("leaky");
  auto* slope = spec.add_parameters();
  slope->set_name("slope");
  slope->mutable_float_()->set_min(0);  // present, though 0: the field is `optional`
  slope->mutable_float_()->set_max(0.5);
  slope->mutable_condition()->set_parent("act");
  slope->mutable_condition()->add_values()->set_string_value("leaky");
  spec.mutable_algorithm()->mutable_sobol();
  spec.mutable_stopping_criteria()->set_max_trials(10);
  spec.mutable_trial_policy()->mutable_lease()->set_seconds(60);
  spec.set_seed(7);
  return spec;
}

// What the training job measures at a point.
double Loss(const v1::Trial& trial) {
  const auto& point = trial.parameters();
  const double rate = std::log10(point.at("lr").float_value()) + 3;
  const bool leaky = point.at("act").string_value() == "leaky";
  return rate * rate + point.at("width").int_value() / 64.0 + (leaky ? point.at("slope").float_value() : 0.25);
}

std::string Number(const v1::Trial& trial) { return trial.name().substr(trial.name().rfind('/') + 1); }

// The last state of every trial, once the study is COMPLETED.
States Watch(const std::string& name) {
  States states;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::WatchStudyRequest request;
  request.set_name(name);
  auto stream = stub->WatchStudy(&context, request);
  v1::WatchStudyResponse change;
  while (stream->Read(&change)) {
    for (const auto& trial : change.trials()) states[Number(trial)] = v1::Trial::State_Name(trial.state());
    if (change.study().state() == v1::Study::COMPLETED) context.TryCancel();
  }
  const grpc::Status status = stream->Finish();
  if (status.error_code() != grpc::StatusCode::CANCELLED) Check(status);
  return states;
}

void PutStates(const States& states, Value* value) {
  for (const auto& [number, state] : states) {
    (*value->mutable_struct_value()->mutable_fields())[number].set_string_value(state);
  }
}

void Run(const std::string& study_id) {
  using Stub = v1::StudyService::Stub;
  Struct report;
  auto& seen = *report.mutable_fields();
  Value* refusals = &seen["refusals"];

  v1::CreateStudyRequest create;
  create.set_parent("projects/default");
  create.set_study_id(study_id);
  *create.mutable_study()->mutable_spec() = Spec(0);
  Refused("CreateStudy", &Stub::CreateStudy, create, refusals);
  auto* objective = create.mutable_study()->mutable_spec()->add_objectives();
  objective->set_metric("loss");
  objective->set_direction(v1::Objective::MINIMIZE);
  create.mutable_study()->mutable_spec()->mutable_parameters(0)->mutable_float_()->set_min(1e-5);
  create.set_conflict_policy(v1::CreateStudyRequest::USE_EXISTING);
  const v1::Study study = Call(&Stub::CreateStudy, create);
  const v1::Study again = Call(&Stub::CreateStudy, create);
  create.set_conflict_policy(v1::CreateStudyRequest::FAIL);
  Refused("CreateStudy", &Stub::CreateStudy, create, refusals);
  const bool same_study = again.name() == study.name() &&
                          again.create_time().seconds() == study.create_time().seconds() &&
                          again.create_time().nanos() == study.create_time().nanos();
  seen["study"].set_string_value(study.name());
  seen["same_study"].set_bool_value(same_study);

  auto watched = std::async(std::launch::async, Watch, study.name());

  v1::CreateTrialsRequest enqueue;
  enqueue.set_parent(study.name());
  auto& point = *enqueue.add_trials()->mutable_parameters();
  point["lr"].set_float_value(0.001);
  point["width"].set_int_value(32);
  point["act"].set_string_value("relu");
  Call(&Stub::CreateTrials, enqueue);

  // A lost reply: the same request id brings the same trials.
  v1::AskRequest ask;
  ask.set_parent(study.name());
  ask.set_count(2);
  ask.set_worker("c++");
  ask.set_request_id(study_id + "-first");
  v1::AskResponse asked = Call(&Stub::Ask, ask);
  const v1::AskResponse repeated = Call(&Stub::Ask, ask);
  seen["same_trials"].set_bool_value(repeated.trials_size() == asked.trials_size() &&
                                     repeated.trials(0).name() == asked.trials(0).name());
  v1::Study::State state = v1::Study::ACTIVE;
  for (int round = 1;; ++round) {
    for (const auto& trial : asked.trials()) {
      seen["sources"].mutable_list_value()->add_values()->set_string_value(
          v1::Suggestion::Source_Name(trial.suggestion().source()));
      const double loss = Loss(trial);
      v1::ReportRequest progress;
      progress.set_name(trial.name());
      progress.mutable_measurement()->set_step(1);
      (*progress.mutable_measurement()->mutable_metrics())["loss"] = loss + 1;
      Call(&Stub::Report, progress);
      v1::HeartbeatRequest beat;
      beat.set_name(trial.name());
      if (Call(&Stub::Heartbeat, beat).should_stop()) throw std::runtime_error("nothing asked this trial to stop");

      v1::TellRequest tell;
      tell.set_name(trial.name());
      const std::string number = Number(trial);
      if (number == "3") {
        tell.mutable_failed()->set_reason("out of luck");
      } else if (number == "4") {
        tell.mutable_infeasible()->set_reason("out of memory");
      } else if (number == "5") {
        tell.mutable_pruned();
      } else {
        (*tell.mutable_measurement()->mutable_metrics())["loss"] = loss;
      }
      state = Call(&Stub::Tell, tell).study_state();
    }
    if (state != v1::Study::ACTIVE) break;
    ask.set_count(1);
    ask.set_request_id(study_id + "-" + std::to_string(round));
    asked = Call(&Stub::Ask, ask);
  }
  PutStates(watched.get(), &seen["watched"]);

  v1::AskRequest late;
  late.set_parent(study.name());
  Refused("Ask", &Stub::Ask, late, refusals);
  v1::TellRequest other;
  other.set_name(study.name() + "/trials/1");
  (*other.mutable_measurement()->mutable_metrics())["loss"] = -1;
  Refused("Tell", &Stub::Tell, other, refusals);
  v1::GetTrialRequest unknown;
  unknown.set_name(study.name() + "/trials/99");
  Refused("GetTrial", &Stub::GetTrial, unknown, refusals);

  States listed;
  v1::ListTrialsRequest list;
  list.set_parent(study.name());
  list.set_page_size(3);
  do {
    const v1::ListTrialsResponse page = Call(&Stub::ListTrials, list);
    for (const auto& trial : page.trials()) listed[Number(trial)] = v1::Trial::State_Name(trial.state());
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  PutStates(listed, &seen["listed"]);

  v1::ListBestTrialsRequest best;
  best.set_parent(study.name());
  const v1::ListBestTrialsResponse found = Call(&Stub::ListBestTrials, best);
  for (const auto& trial : found.trials()) {
    auto& fields = *seen["best"].mutable_list_value()->add_values()->mutable_struct_value()->mutable_fields();
    fields["name"].set_string_value(trial.name());
    fields["loss"].set_number_value(trial.measurement().metrics().at("loss"));
  }

  std::string json;
  if (!google::protobuf::util::MessageToJsonString(report, &json).ok()) throw std::runtime_error("cannot write JSON");
  std::cout << json << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: client TARGET STUDY_ID\n";
    return 2;
  }
  try {
    stub = v1::StudyService::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
    Run(argv[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
